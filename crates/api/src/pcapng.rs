//! Just enough of pcapng to write what was captured, and to count what is in it.
//!
//! Source: draft-ietf-opsawg-pcapng. Little-endian; timestamps in nanoseconds since 1970.

/// Section header, interface description, interface statistics, enhanced packet.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u16 = 1;
/// Options; the same number means another thing in each kind of block.
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;
/// Ten to the power of -9 s.
const NANOSECONDS: u8 = 9;

/// Type and length before, length behind.
const BLOCK_OVERHEAD: usize = 12;
/// Longer blocks are of no capture that weft writes.
const MAX_BLOCK_LEN: usize = 1 << 20;

/// Which way a frame went, as seen from the containers of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameDirection {
    /// To them.
    Inbound = 1,
    /// From them.
    Outbound = 2,
}

fn block(out: &mut Vec<u8>, kind: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    fill(out);
    let len = (out.len() - start + 4) as u32;
    out.extend(len.to_le_bytes());
    if let Some(place) = out.get_mut(start + 4..start + 8) {
        place.copy_from_slice(&len.to_le_bytes());
    }
}

fn padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes);
    out.extend(std::iter::repeat_n(0, bytes.len().next_multiple_of(4) - bytes.len()));
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    padded(out, value);
}

fn end_of_options(out: &mut Vec<u8>) {
    out.extend([0; 4]);
}

fn timestamp(out: &mut Vec<u8>, ns: u64) {
    out.extend(((ns >> 32) as u32).to_le_bytes());
    out.extend((ns as u32).to_le_bytes());
}

/// Begins a file.
pub fn write_section(out: &mut Vec<u8>, application: &str) {
    block(out, SECTION, |out| {
        out.extend(BYTE_ORDER_MAGIC.to_le_bytes());
        out.extend([1, 0, 0, 0]);
        // The section's length is not known.
        out.extend(u64::MAX.to_le_bytes());
        option(out, SHB_USERAPPL, application.as_bytes());
        end_of_options(out);
    });
}

/// Describes the next interface; the first has number 0.
pub fn write_interface(out: &mut Vec<u8>, name: &str, description: &str, snap_len: u32) {
    block(out, INTERFACE, |out| {
        out.extend(ETHERNET.to_le_bytes());
        out.extend([0; 2]);
        out.extend(snap_len.to_le_bytes());
        option(out, IF_NAME, name.as_bytes());
        option(out, IF_DESCRIPTION, description.as_bytes());
        option(out, IF_TSRESOL, &[NANOSECONDS]);
        end_of_options(out);
    });
}

/// Writes a frame of which `bytes` are the first and `len` the whole length.
pub fn write_frame(
    out: &mut Vec<u8>,
    interface: u32,
    at_ns: u64,
    direction: FrameDirection,
    bytes: &[u8],
    len: usize,
) {
    block(out, PACKET, |out| {
        out.extend(interface.to_le_bytes());
        timestamp(out, at_ns);
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend((len as u32).to_le_bytes());
        padded(out, bytes);
        option(out, EPB_FLAGS, &(direction as u32).to_le_bytes());
        end_of_options(out);
    });
}

/// Bytes that [`write_frame`] writes for a frame of which `len` bytes are kept.
#[must_use]
pub const fn written_len(len: usize) -> usize {
    BLOCK_OVERHEAD + 20 + len.next_multiple_of(4) + 8 + 4
}

/// Says how many frames an interface had, and how many of them are missing.
pub fn write_statistics(out: &mut Vec<u8>, interface: u32, at_ns: u64, n_received: u64, n_dropped: u64) {
    block(out, STATISTICS, |out| {
        out.extend(interface.to_le_bytes());
        timestamp(out, at_ns);
        option(out, ISB_IFRECV, &n_received.to_le_bytes());
        option(out, ISB_IFDROP, &n_dropped.to_le_bytes());
        end_of_options(out);
    });
}

/// Counts what passes, in pieces of any size.
#[derive(Debug, Default)]
pub struct Totals {
    /// Frames.
    pub n_frames: u64,
    /// Frames that are missing, as the statistics at the end say.
    pub n_dropped: u64,
    /// The statistics were there: the capture is whole.
    pub has_end: bool,
    rest: Vec<u8>,
}

impl Totals {
    /// Takes in the next piece. `false` when it is not what weft writes.
    pub fn feed(&mut self, piece: &[u8]) -> bool {
        self.rest.extend(piece);
        let mut done = 0;
        while let Some(block) = self.rest.get(done..).filter(|block| block.len() >= 8) {
            let word = |at: usize| {
                let bytes = block.get(at..)?.first_chunk()?;
                Some(u32::from_le_bytes(*bytes))
            };
            let len = word(4).unwrap_or(0) as usize;
            if !(BLOCK_OVERHEAD..=MAX_BLOCK_LEN).contains(&len) {
                return false;
            }
            if block.len() < len {
                break;
            }
            match word(0) {
                Some(PACKET) => self.n_frames += 1,
                Some(STATISTICS) => {
                    self.has_end = true;
                    self.n_dropped += n_dropped(block.get(20..len - 4).unwrap_or_default());
                }
                _ => {}
            }
            done += len;
        }
        self.rest.drain(..done);
        true
    }
}

fn n_dropped(mut options: &[u8]) -> u64 {
    while let Some(([c0, c1, l0, l1], rest)) = options.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes([*l0, *l1]));
        if u16::from_le_bytes([*c0, *c1]) == ISB_IFDROP
            && let Some(value) = rest.first_chunk()
        {
            return u64::from_le_bytes(*value);
        }
        options = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let mut out = Vec::new();
        write_section(&mut out, "weft 0.1.0");
        write_interface(&mut out, "wft00a1b2c3d4e5", "u48gny859s07", 65_535);
        let start = out.len();
        write_frame(&mut out, 0, 1_790_000_000_123_456_789, FrameDirection::Outbound, &[0xab; 61], 1432);
        assert_eq!(out.len() - start, written_len(61));
        write_frame(&mut out, 0, 1_790_000_000_123_456_790, FrameDirection::Inbound, &[0xcd; 60], 60);
        write_statistics(&mut out, 0, 1_790_000_001_000_000_000, 9, 7);
        out
    }

    #[test]
    fn blocks_are_aligned_and_say_their_length_twice() {
        let (bytes, mut at, mut kinds) = (file(), 0, Vec::new());
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        while at < bytes.len() {
            let len = word(at + 4) as usize;
            assert!(len.is_multiple_of(4) && word(at + len - 4) as usize == len);
            kinds.push(word(at));
            at += len;
        }
        assert_eq!(kinds, [SECTION, INTERFACE, PACKET, PACKET, STATISTICS]);
    }

    #[test]
    fn totals_do_not_depend_on_the_pieces() {
        let bytes = file();
        for size in [1, 7, 64, bytes.len()] {
            let mut totals = Totals::default();
            assert!(bytes.chunks(size).all(|piece| totals.feed(piece)));
            assert_eq!((totals.n_frames, totals.n_dropped, totals.has_end), (2, 7, true), "{size}");
        }
        let mut cut = Totals::default();
        assert!(cut.feed(&bytes[..bytes.len() - 1]) && !cut.has_end);
        assert!(!Totals::default().feed(&[0; 64]) && !Totals::default().feed(&[0xff; 64]));
    }
}
