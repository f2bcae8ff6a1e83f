//! `weft capture`: from the router's copies of frames to a pcapng file for the client.
//!
//! ```text
//! workers --> queue, bounded in frames and bytes --> a task: pcapng --> the client, at its own pace
//!             (full: counted)
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tracing::info;
use weft_api::pcapng::{self, FrameDirection};
use weft_api::{
    CaptureRequest, ControlError, EndCapture, MAX_CAPTURE_LEN, MAX_CAPTURE_TIME, MAX_SNAP_LEN, Pieces,
};
use weft_netlink::names;
use weft_router::{CaptureFilter, CaptureHandle, CapturedFrame};
use weft_wire::{NetworkId, PeerId};

use crate::core::{Core, Topology};
use crate::orders::{node_stopped, refused, running};
use crate::paths::find_peer;

/// Frames that may wait to be written, and their bytes.
const MAX_WAITING: usize = 8192;
const MAX_WAITING_LEN: usize = 8 << 20;
/// What is handed to the client at once, about.
const PIECE_LEN: usize = 64 << 10;
/// How long a client may take for the end, when the time is over.
const FAREWELL: Duration = Duration::from_secs(2);

/// The captures that can be told to end, by the number that the client chose.
#[derive(Default)]
pub(crate) struct Captures(Mutex<BTreeMap<u64, Arc<Notify>>>);

impl Captures {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes its number out when it is over, however it ends.
struct Listed {
    core: Arc<Core>,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.core.captures.lock().remove(&self.number);
    }
}

pub(crate) fn end(core: &Core, request: &EndCapture) -> Result<(), ControlError> {
    match core.captures.lock().get(&request.capture) {
        Some(end) => {
            end.notify_one();
            Ok(())
        }
        None => Err(refused("the capture has ended already")),
    }
}

/// What an operator named.
struct Target {
    networks: Vec<(NetworkId, String)>,
    peer: Option<PeerId>,
}

pub(crate) async fn begin(core: &Arc<Core>, request: CaptureRequest) -> Result<Pieces, ControlError> {
    let running = running(core)?;
    let Target { networks, peer } = find(core, &request.of).await?;
    let end = Arc::new(Notify::new());
    let listed = {
        let mut captures = core.captures.lock();
        if captures.contains_key(&request.capture) {
            return Err(refused("a capture of this number is under way"));
        }
        captures.insert(request.capture, Arc::clone(&end));
        Listed { core: Arc::clone(core), number: request.capture }
    };
    let (queue, frames) = mpsc::channel::<CapturedFrame>(MAX_WAITING);
    let waiting_len = Arc::new(AtomicUsize::new(0));
    let snap_len = request.snap_len.clamp(1, MAX_SNAP_LEN);
    let filter = CaptureFilter {
        networks: networks.iter().map(|(id, _)| *id).collect(),
        peer,
        snap_len: snap_len as usize,
    };
    let waiting = Arc::clone(&waiting_len);
    let handle = running.router.capture(filter, move |frame| {
        let len = frame.bytes.len();
        if waiting.fetch_add(len, Ordering::Relaxed) + len <= MAX_WAITING_LEN && queue.try_send(frame).is_ok()
        {
            return true;
        }
        waiting.fetch_sub(len, Ordering::Relaxed);
        false
    });
    let handle =
        handle.ok_or_else(|| refused("four captures are under way already: end one with Ctrl-C, or wait"))?;
    let mut head = Vec::new();
    pcapng::write_section(&mut head, concat!("weft ", env!("CARGO_PKG_VERSION")));
    for (id, docker_id) in &networks {
        pcapng::write_interface(&mut head, &names::tap_name(*id), &format!("network {docker_id}"), snap_len);
    }
    let (client, pieces) = Pieces::new();
    info!(of = ?request.of, "capture begins: decrypted frames are handed to root");
    let writer = Writer {
        file: head,
        written_len: 0,
        max_len: request.max_len.min(MAX_CAPTURE_LEN),
        n_frames: 0,
        max_frames: request.max_frames,
        by_network: vec![0; networks.len()],
    };
    let time = Duration::from_millis(request.max_time_ms).min(MAX_CAPTURE_TIME);
    tokio::spawn(async move {
        let _listed = listed;
        let n_frames = write(writer, Source { handle, frames, waiting_len }, client, &end, time).await;
        info!(n_frames, "capture ended");
    });
    Ok(pieces)
}

/// The network or peer that is known of those that were named.
async fn find(core: &Core, of: &[String]) -> Result<Target, ControlError> {
    let running = running(core)?;
    let name = of.first().cloned().unwrap_or_default();
    {
        let topology = core.topology.read().await;
        for text in of {
            if let Some(network) = find_network(&topology, text)? {
                return Ok(Target { networks: vec![network], peer: None });
            }
        }
    }
    let texts = of.to_vec();
    let found = running.node.call(move |node, now| {
        let mut last = refused("no network or peer was named");
        for text in &texts {
            match find_peer(node, text) {
                Ok(id) => {
                    let report = node.peer_reports(now).into_iter().find(|report| report.id == Some(id));
                    return Ok((id, report.map(|report| report.networks).unwrap_or_default()));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    });
    let (id, common) = found.await.ok_or_else(node_stopped)?.map_err(|error| {
        refused(format!("`{name}` is no network that a container of this host is on, and {error}"))
    })?;
    let topology = core.topology.read().await;
    let networks: Vec<_> = topology
        .networks
        .iter()
        .filter(|(_, network)| common.contains(&network.id))
        .map(|(docker_id, network)| (network.id, docker_id.clone()))
        .collect();
    if networks.is_empty() {
        return Err(refused(format!(
            "no network is common to this host and `{name}`, so no frames are exchanged"
        )));
    }
    Ok(Target { networks, peer: Some(id) })
}

/// By Docker's id or its begin.
fn find_network(topology: &Topology, text: &str) -> Result<Option<(NetworkId, String)>, ControlError> {
    let mut found = topology.networks.iter().filter(|(id, _)| {
        // As for peers: less is easily another's.
        *id == text || text.len() >= 4 && id.starts_with(text)
    });
    match (found.next(), found.next()) {
        (Some((id, network)), None) => Ok(Some((network.id, id.clone()))),
        (None, _) => Ok(None),
        (Some(_), Some(_)) => {
            Err(refused(format!("several networks' ids begin with `{text}`: give more of it")))
        }
    }
}

/// Makes the file.
struct Writer {
    /// What was not handed to the client yet.
    file: Vec<u8>,
    written_len: u64,
    max_len: u64,
    n_frames: u64,
    max_frames: u64,
    /// Frames written.
    by_network: Vec<u64>,
}

impl Writer {
    /// Writes a frame; `false`, with nothing written, when a limit is reached.
    fn frame(&mut self, mut frame: CapturedFrame) -> bool {
        let len = pcapng::written_len(frame.bytes.len()) as u64;
        if self.n_frames >= self.max_frames || self.written_len + self.file.len() as u64 + len > self.max_len
        {
            return false;
        }
        // Offloads left it to the NIC, which a capture takes for an error.
        frame.complete_checksum();
        let direction = if frame.inbound { FrameDirection::Inbound } else { FrameDirection::Outbound };
        let interface = frame.network as u32;
        pcapng::write_frame(&mut self.file, interface, ns(frame.at), direction, &frame.bytes, frame.len);
        self.n_frames += 1;
        if let Some(n) = self.by_network.get_mut(frame.network) {
            *n += 1;
        }
        true
    }

    fn take(&mut self) -> Bytes {
        self.written_len += self.file.len() as u64;
        std::mem::take(&mut self.file).into()
    }

    fn statistics(&mut self, n_dropped: &[u64], at: SystemTime) {
        for (i, (n_written, n_dropped)) in self.by_network.iter().zip(n_dropped).enumerate() {
            let n = n_written + n_dropped;
            pcapng::write_statistics(&mut self.file, i as u32, ns(at), n, *n_dropped);
        }
    }
}

fn ns(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Where frames come from.
struct Source {
    handle: CaptureHandle,
    frames: mpsc::Receiver<CapturedFrame>,
    waiting_len: Arc<AtomicUsize>,
}

impl Source {
    fn taken(&self, frame: &CapturedFrame) {
        self.waiting_len.fetch_sub(frame.bytes.len(), Ordering::Relaxed);
    }
}

/// Writes until a limit is reached, it is told to end, or the client has gone. Returns how many frames it were.
async fn write(
    mut writer: Writer,
    mut source: Source,
    client: mpsc::Sender<Bytes>,
    end: &Notify,
    time: Duration,
) -> u64 {
    let deadline = tokio::time::sleep(time);
    let mut over = std::pin::pin!(async {
        tokio::select! {
            () = deadline => {}
            () = end.notified() => {}
        }
    });
    let mut full = false;
    while !full {
        // Also the head, before the first frame.
        if !writer.file.is_empty() {
            let piece = writer.take();
            tokio::select! {
                sent = client.send(piece.clone()) => if sent.is_err() { return writer.n_frames },
                () = &mut over => {
                    // It was not taken: now it is the first of the last.
                    writer.written_len -= piece.len() as u64;
                    writer.file = piece.into();
                    break;
                }
            }
        }
        tokio::select! {
            frame = source.frames.recv() => {
                let Some(frame) = frame else { break };
                source.taken(&frame);
                full = !writer.frame(frame);
            }
            () = &mut over => break,
            () = client.closed() => return writer.n_frames,
        }
        while !full && writer.file.len() < PIECE_LEN {
            let Ok(frame) = source.frames.try_recv() else { break };
            source.taken(&frame);
            full = !writer.frame(frame);
        }
        full |= writer.n_frames >= writer.max_frames;
    }
    // No more frames come; those that wait are of the time before.
    source.handle.end();
    let last = Instant::now() + FAREWELL;
    while let Ok(frame) = source.frames.try_recv() {
        if full || !writer.frame(frame) {
            break;
        }
        if writer.file.len() >= PIECE_LEN {
            let piece = writer.take();
            if !matches!(tokio::time::timeout_at(last, client.send(piece)).await, Ok(Ok(()))) {
                return writer.n_frames;
            }
        }
    }
    writer.statistics(&source.handle.n_dropped(), SystemTime::now());
    // Whoever does not take the end has no whole file, and sees it.
    let _ = tokio::time::timeout_at(last, client.send(writer.take())).await;
    writer.n_frames
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: usize) -> CapturedFrame {
        CapturedFrame { network: 0, inbound: true, at: UNIX_EPOCH, len, partial: false, bytes: vec![7; len] }
    }

    fn writer(max_frames: u64, max_len: u64) -> Writer {
        Writer { file: Vec::new(), written_len: 0, max_len, n_frames: 0, max_frames, by_network: vec![0] }
    }

    #[test]
    fn limits_are_kept_to_the_frame_and_to_the_byte() {
        let mut few = writer(2, 1 << 20);
        assert_eq!([1, 2, 3].map(|_| few.frame(frame(100))), [true, true, false]);
        let mut short = writer(9, pcapng::written_len(100) as u64 * 2);
        assert!(short.frame(frame(100)));
        short.take();
        assert!(short.frame(frame(100)) && !short.frame(frame(1)));
    }

    #[test]
    fn the_end_says_what_is_missing() {
        let mut writer = writer(9, 1 << 20);
        writer.frame(frame(60));
        writer.statistics(&[5], SystemTime::now());
        let mut totals = pcapng::Totals::default();
        assert!(totals.feed(&writer.take()));
        assert_eq!((totals.n_frames, totals.n_dropped, totals.has_end), (1, 5, true));
    }
}
