//! Answers that go on for a while.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame};
use tokio::sync::mpsc;

/// The body of such an answer, in pieces. Who sends them sees by its channel that the client has gone.
#[derive(Debug)]
pub struct Pieces(mpsc::Receiver<Bytes>);

/// Pieces that may wait for a client which reads slowly.
const MAX_WAITING: usize = 4;

impl Pieces {
    /// An answer, and by what it is sent. It ends when that is dropped.
    #[must_use]
    pub fn new() -> (mpsc::Sender<Bytes>, Self) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        (sender, Self(receiver))
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
