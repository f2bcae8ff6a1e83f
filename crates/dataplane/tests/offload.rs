//! Splitting and joining of frames, against a segmenter that is written the plain way.

use std::ops::Range;

use proptest::prelude::*;
use weft_dataplane::{Coalescer, GsoKind, Packet, Segments, VnetHdr, complete_checksum, frame_kind};
use weft_wire::InnerKind;

/// What a datagram has around a frame.
const GAP: usize = 40;

/// A super-frame, by its fields.
#[derive(Debug, Clone)]
struct Super {
    n_vlans: usize,
    ipv6: bool,
    tcp: bool,
    /// Words of IPv4 options, or 8-byte units of an IPv6 hop-by-hop header; of TCP options.
    ip_option_words: usize,
    tcp_option_words: usize,
    tos: u8,
    dont_fragment: bool,
    id: u16,
    seq: u32,
    flags: u8,
    payload: Vec<u8>,
    gso_size: usize,
}

fn super_frame() -> impl Strategy<Value = Super> {
    let shape = (0usize..3, any::<bool>(), any::<bool>(), 0usize..3, 0usize..11);
    let fields = (any::<u8>(), any::<bool>(), any::<u16>(), any::<u32>());
    let flags = prop_oneof![4 => Just(0x10u8), 2 => Just(0x18), 1 => Just(0x11), 1 => any::<u8>()];
    let payload = prop::collection::vec(any::<u8>(), 1..6000);
    (shape, fields, flags, payload, 40usize..1500).prop_map(
        |(
            (n_vlans, ipv6, tcp, ip_option_words, tcp_option_words),
            (tos, dont_fragment, id, seq),
            flags,
            payload,
            gso_size,
        )| {
            Super {
                n_vlans,
                ipv6,
                tcp,
                ip_option_words,
                tcp_option_words,
                tos,
                dont_fragment,
                id,
                seq,
                flags,
                payload,
                gso_size,
            }
        },
    )
}

fn textbook_sum(bytes: &[u8]) -> u32 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fn folded(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = parts.iter().map(|p| textbook_sum(p)).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Super {
    fn l4(&self) -> usize {
        let ip = if self.ipv6 { 40 + self.ip_option_words * 8 } else { 20 + self.ip_option_words * 4 };
        14 + self.n_vlans * 4 + ip
    }

    fn csum_offset(&self) -> usize {
        if self.tcp { 16 } else { 6 }
    }

    fn vnet(&self) -> VnetHdr {
        VnetHdr {
            needs_csum: true,
            gso: match (self.tcp, self.ipv6) {
                (true, false) => GsoKind::TcpV4,
                (true, true) => GsoKind::TcpV6,
                (false, _) => GsoKind::UdpL4,
            },
            ecn: false,
            hdr_len: 0,
            gso_size: self.gso_size as u16,
            csum_start: self.l4() as u16,
            csum_offset: self.csum_offset() as u16,
        }
    }

    /// The frame that carries `payload` as the segment `i` of `n`, with its transport checksum whole or partial.
    fn frame(&self, i: usize, n: usize, payload: &[u8], whole: bool) -> Vec<u8> {
        let mut l4 = Vec::new();
        l4.extend([0x30, 0x39, 0x14, 0xb4]);
        if self.tcp {
            let mut flags = self.flags;
            if i + 1 < n {
                flags &= !0x09;
            }
            if i > 0 {
                flags &= !0x80;
            }
            l4.extend(self.seq.wrapping_add((i * self.gso_size) as u32).to_be_bytes());
            l4.extend(0x0102_0304u32.to_be_bytes());
            l4.extend([((5 + self.tcp_option_words) << 4) as u8, flags, 0x12, 0x34, 0, 0, 0, 0]);
            l4.extend(vec![1; self.tcp_option_words * 4]);
        } else {
            l4.extend(((8 + payload.len()) as u16).to_be_bytes());
            l4.extend([0, 0]);
        }
        l4.extend(payload);
        let l4_len = l4.len() as u16;
        let protocol = if self.tcp { 6 } else { 17 };

        let mut ip = Vec::new();
        let addresses: Vec<u8> =
            if self.ipv6 { (0..32).map(|b| b * 7).collect() } else { vec![10, 1, 2, 3, 10, 4, 5, 6] };
        if self.ipv6 {
            let next = if self.ip_option_words > 0 { 0 } else { protocol };
            ip.extend([0x60 | self.tos >> 4, self.tos << 4, 1, 2]);
            ip.extend((l4_len + self.ip_option_words as u16 * 8).to_be_bytes());
            ip.extend([next, 63]);
            ip.extend(&addresses);
            if self.ip_option_words > 0 {
                ip.extend([protocol, self.ip_option_words as u8 - 1]);
                ip.extend(vec![0; self.ip_option_words * 8 - 2]);
            }
        } else {
            ip.extend([0x45 + self.ip_option_words as u8, self.tos]);
            ip.extend((20 + self.ip_option_words as u16 * 4 + l4_len).to_be_bytes());
            ip.extend(self.id.wrapping_add(i as u16).to_be_bytes());
            ip.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, 61, protocol, 0, 0]);
            ip.extend(&addresses);
            ip.extend(vec![1; self.ip_option_words * 4]);
            let sum = !folded(&[&ip]);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }

        let mut sum = folded(&[&addresses, &[0, protocol], &l4_len.to_be_bytes()]);
        if whole {
            sum = !folded(&[&sum.to_be_bytes(), &l4]);
            sum = if sum == 0 { 0xffff } else { sum };
        }
        let at = self.csum_offset();
        l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());

        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in 0..self.n_vlans {
            frame.extend(if tag == 0 && self.n_vlans == 2 { [0x88, 0xa8] } else { [0x81, 0] });
            frame.extend([0, tag as u8 + 5]);
        }
        frame.extend(if self.ipv6 { [0x86, 0xdd] } else { [8, 0] });
        frame.extend(ip);
        frame.extend(l4);
        frame
    }

    fn whole(&self) -> Vec<u8> {
        self.frame(0, 1, &self.payload, false)
    }

    /// What it is to be cut into.
    fn reference(&self, whole: bool) -> Vec<Vec<u8>> {
        let n = self.payload.chunks(self.gso_size).count();
        self.payload.chunks(self.gso_size).enumerate().map(|(i, p)| self.frame(i, n, p, whole)).collect()
    }
}

fn split(vnet: &VnetHdr, frame: &[u8]) -> Vec<Vec<u8>> {
    if vnet.gso == GsoKind::None {
        return vec![frame.to_vec()];
    }
    let segments = Segments::plan(vnet, frame, frame.len()).unwrap();
    let payload = &frame[segments.headers_len()..];
    (0..segments.count())
        .zip(payload.chunks(segments.gso_size()))
        .map(|(i, part)| {
            assert_eq!(part.len(), segments.payload_len(i));
            let mut out = vec![0; segments.headers_len()];
            segments.write_headers(i, &mut out);
            out.extend(part);
            out
        })
        .collect()
}

/// Lays frames out as they lie in a received train, joins what can be joined, and returns what would be written.
fn join(frames: &[(Vec<u8>, bool)]) -> Vec<(VnetHdr, Vec<u8>)> {
    let mut buf = Vec::new();
    let mut ranges: Vec<(Range<usize>, bool)> = Vec::new();
    for (frame, partial) in frames {
        buf.extend([0xee; GAP]);
        ranges.push((buf.len()..buf.len() + frame.len(), *partial));
        buf.extend(frame);
    }
    let mut out = Vec::new();
    let mut coalescer = Coalescer::new();
    let mut flush = |coalescer: &mut Coalescer, buf: &mut [u8]| {
        if !coalescer.is_empty() {
            let vnet = coalescer.finish(buf).unwrap();
            let bytes = coalescer.pieces().iter().flat_map(|p| &buf[p.start as usize..p.end as usize]);
            out.push((vnet, bytes.copied().collect()));
        }
    };
    for (range, partial) in ranges {
        if !coalescer.offer(&buf, range.clone(), partial) {
            flush(&mut coalescer, &mut buf);
            coalescer.start(&buf, range, partial);
        }
    }
    flush(&mut coalescer, &mut buf);
    out
}

proptest! {
    #[test]
    fn split_equals_the_reference(s in super_frame()) {
        let mut frames = split(&s.vnet(), &s.whole());
        prop_assert_eq!(&frames, &s.reference(false));
        for frame in &mut frames {
            let packet = Packet::parse(frame).unwrap();
            prop_assert!(complete_checksum(frame, packet.l4, packet.transport.checksum_offset()));
        }
        prop_assert_eq!(&frames, &s.reference(true));
    }

    #[test]
    fn join_undoes_split(mut s in super_frame()) {
        // Flags with which nothing is joined have their own test.
        s.flags &= 0x59;
        let frames: Vec<_> = s.reference(false).into_iter().map(|f| (f, true)).collect();
        prop_assume!(frames.len() > 1 && frames.len() <= 128);
        let joined = join(&frames);
        prop_assert_eq!(joined.len(), 1);
        let (vnet, bytes) = &joined[0];
        prop_assert_eq!(bytes, &s.whole());
        prop_assert_eq!(*vnet, VnetHdr { hdr_len: vnet.hdr_len, ..s.vnet() });
        prop_assert_eq!(usize::from(vnet.hdr_len), s.whole().len() - s.payload.len());
    }

    /// Whatever is joined, cut again, is what was there before: no frame is lost, changed or out of order.
    #[test]
    fn split_undoes_join(
        flows in prop::collection::vec(super_frame(), 1..4),
        order in prop::collection::vec((0usize..4, 1usize..6), 1..12),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1u8..)),
        partial in prop::sample::select(vec![true, true, true, false]),
    ) {
        let mut queues: Vec<_> = flows.iter().map(|s| s.reference(!partial).into_iter()).collect();
        let mut frames = Vec::new();
        for (flow, n) in order {
            let n_queues = queues.len();
            frames.extend(queues[flow % n_queues].by_ref().take(n).map(|f| (f, partial)));
        }
        prop_assume!(!frames.is_empty());
        if let Some((frame, byte, flip)) = damage {
            let (frame, _) = frame.get(&frames);
            let (at, frame) = (byte.index(frame.len()), frame.clone());
            let position = frames.iter().position(|(f, _)| *f == frame).unwrap();
            frames[position].0[at] ^= flip;
            // A partial checksum in what does not parse is a fault of the sender.
            prop_assume!(!partial || Packet::parse(&frames[position].0).is_some());
        }
        // Equal identifications with DF are joined although a cut counts them up.
        let again: Vec<_> = join(&frames).iter().flat_map(|(vnet, bytes)| split(vnet, bytes)).collect();
        let before: Vec<_> = frames.into_iter().map(|(f, _)| f).collect();
        prop_assert_eq!(again, before);
    }

    #[test]
    fn random_bytes_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400), vnet: [u8; VnetHdr::LEN],
        cuts in prop::collection::vec((0usize..500, 0usize..500, any::<bool>()), 0..8),
        l4 in 0u16..80, template in any::<bool>(),
    ) {
        if template {
            for (to, from) in bytes.iter_mut().skip(12).zip([8, 0, 0x45]) { *to = from; }
        }
        if let Some(mut vnet) = VnetHdr::parse(&vnet) {
            vnet.csum_start = l4;
            if let Ok(segments) = Segments::plan(&vnet, &bytes, bytes.len()) {
                for i in [0, 1, segments.count(), usize::MAX >> 20] {
                    segments.write_headers(i, &mut bytes.clone());
                }
                segments.write_headers(0, &mut []);
            }
            let _ = frame_kind(&vnet, &mut bytes);
        }
        let mut coalescer = Coalescer::new();
        for (start, end, partial) in cuts {
            if !coalescer.offer(&bytes, start..end, partial) {
                let _ = coalescer.finish(&mut bytes);
                coalescer.start(&bytes, start..end, partial);
            }
        }
        let _ = coalescer.finish(&mut bytes);
    }
}

fn plain(tcp: bool) -> Super {
    Super {
        n_vlans: 0,
        ipv6: false,
        tcp,
        ip_option_words: 0,
        tcp_option_words: 3,
        tos: 0,
        dont_fragment: true,
        id: 7,
        seq: u32::MAX - 100,
        flags: 0x10,
        payload: (0..500).map(|i| i as u8).collect(),
        gso_size: 100,
    }
}

fn joined_counts(frames: Vec<Vec<u8>>) -> Vec<usize> {
    let frames: Vec<_> = frames.into_iter().map(|f| (f, true)).collect();
    join(&frames).iter().map(|(vnet, bytes)| split(vnet, bytes).len()).collect()
}

#[test]
fn flags_with_a_meaning_of_their_own_are_not_joined() {
    for flags in [0x12, 0x14, 0x30, 0x90] {
        let frames = Super { flags, ..plain(true) }.reference(false);
        // Only the first segment of a super-frame has CWR.
        let expected = if flags == 0x90 { vec![1, 4] } else { vec![1; 5] };
        assert_eq!(joined_counts(frames), expected, "{flags:#x}");
    }
}

#[test]
fn push_and_short_frames_end_a_super_frame() {
    let s = plain(true);
    let mut frames = s.reference(false);
    frames[1][14 + 20 + 13] |= 0x08;
    assert_eq!(joined_counts(frames), [2, 3]);
    let long = Super { payload: vec![1; 350], ..plain(true) };
    let after = Super { seq: long.seq.wrapping_add(350), id: long.id + 4, ..plain(true) };
    assert_eq!(joined_counts([long.reference(false), after.reference(false)].concat()), [4, 5]);
}

#[test]
fn fragments_are_never_joined() {
    for fragment in [[0x20, 0], [0, 1], [0x20, 9]] {
        let frames = plain(false).reference(true).into_iter().map(|mut f| {
            f[20..22].copy_from_slice(&fragment);
            (f, false)
        });
        assert_eq!(join(&frames.collect::<Vec<_>>()).len(), 5);
    }
}

#[test]
fn unconnected_udp_without_identification_is_joined() {
    let frames: Vec<_> = (0..5).map(|_| plain(false).frame(0, 1, &[9; 64], false)).collect();
    assert_eq!(join(&frames.into_iter().map(|f| (f, true)).collect::<Vec<_>>()).len(), 1);
}

#[test]
fn no_super_frame_is_longer_than_ip_can_say() {
    let s = Super { payload: vec![5; 64_000], gso_size: 1400, ..plain(true) };
    let more = Super { seq: s.seq.wrapping_add(64_000), id: s.id + 46, ..s.clone() };
    let first = s.reference(false);
    let frames: Vec<_> = first[..45].iter().cloned().chain(more.reference(false)).collect();
    assert!(joined_counts(frames).iter().all(|n| n * 1400 < 65_535));
}

#[test]
fn checksums_that_parsing_would_not_find_are_completed() {
    let s = plain(false);
    let mut frame = s.frame(0, 1, &s.payload, false);
    let vnet = VnetHdr { gso: GsoKind::None, ..s.vnet() };
    assert_eq!(frame_kind(&vnet, &mut frame), Ok(InnerKind::FramePartial));
    assert_eq!(frame, s.frame(0, 1, &s.payload, false));
    assert_eq!(frame_kind(&VnetHdr::PLAIN, &mut frame), Ok(InnerKind::Frame));
    // As if the payload were a tunnel with a checksum of its own.
    let inner = VnetHdr { csum_start: vnet.csum_start + 8, csum_offset: 2, ..vnet };
    assert_eq!(frame_kind(&inner, &mut frame), Ok(InnerKind::Frame));
    let payload = &frame[14 + 20 + 8..];
    let before = &s.payload[2..4];
    assert_eq!(folded(&[payload, before]), 0xffff);
    assert!(frame_kind(&VnetHdr { csum_start: 9999, ..vnet }, &mut frame).is_err());
}

/// Makes the checksums of a changed frame right again, where it still is TCP or UDP.
fn repair(frame: &mut [u8]) {
    let Some(p) = Packet::parse(frame).filter(|p| p.end == frame.len()) else { return };
    let addresses = if p.ipv6 { p.l3 + 8..p.l3 + 40 } else { p.l3 + 12..p.l3 + 20 };
    if !p.ipv6 {
        let header_end = p.l3 + usize::from(frame[p.l3] & 0xf) * 4;
        frame[p.l3 + 10..p.l3 + 12].fill(0);
        let sum = !folded(&[&frame[p.l3..header_end]]);
        frame[p.l3 + 10..p.l3 + 12].copy_from_slice(&sum.to_be_bytes());
    }
    let protocol = if p.transport.checksum_offset() == 16 { 6 } else { 17 };
    let len = (frame.len() - p.l4) as u16;
    let sum = folded(&[&frame[addresses], &[0, protocol], &len.to_be_bytes()]);
    let at = p.l4 + p.transport.checksum_offset();
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// No bit of the headers is lost by joining, whichever it is, and however right the checksums are.
#[test]
fn a_difference_in_any_header_bit_survives() {
    for (tcp, ipv6) in [(true, false), (true, true), (false, false), (false, true)] {
        let s = Super { ipv6, ip_option_words: 1, ..plain(tcp) };
        let headers_len = s.whole().len() - s.payload.len();
        for bit in 0..headers_len * 8 {
            let mut frames = s.reference(false);
            frames[2][bit / 8] ^= 1 << (bit % 8);
            repair(&mut frames[2]);
            if Packet::parse(&frames[2]).is_none() {
                continue;
            }
            let sealed: Vec<_> = frames.iter().map(|f| (f.clone(), true)).collect();
            let again: Vec<_> = join(&sealed).iter().flat_map(|(vnet, bytes)| split(vnet, bytes)).collect();
            assert_eq!(again, frames, "tcp {tcp}, ipv6 {ipv6}, bit {bit}");
        }
    }
}
