//! What TCP's ends are told of the segments that the way between them carries.

use crate::checksum::{fold, get_u16, put_u16};
use crate::packet::{Packet, Transport};

const SYN: u8 = 0x02;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;

/// Lowers the maximum segment size in a SYN or SYN-ACK to what fits into frames of `max_frame_len` bytes; whether it did.
///
/// The option says what its sender wants to receive, so the limit is that of the path towards the frame's sender. A
/// partial checksum (`partial`) covers no option and stays; a complete one is adjusted (RFC 1624). Without the option
/// TCP assumes 536 and 1220 bytes (RFC 9293, section 3.7.1), which fit everywhere.
pub fn clamp_mss(frame: &mut [u8], partial: bool, max_frame_len: usize) -> bool {
    let Some(packet) = Packet::parse(frame).filter(|p| p.transport == Transport::Tcp) else { return false };
    if frame.get(packet.l4 + 13).is_none_or(|flags| flags & SYN == 0) {
        return false;
    }
    let headers_len = packet.l3 + if packet.ipv6 { 60 } else { 40 };
    let most = u16::try_from(max_frame_len.saturating_sub(headers_len)).unwrap_or(u16::MAX);
    let mut at = packet.l4 + 20;
    while at < packet.payload {
        match frame.get(at).copied().unwrap_or(OPTION_END) {
            OPTION_END => return false,
            OPTION_NOP => at += 1,
            kind => {
                let len = usize::from(frame.get(at + 1).copied().unwrap_or(0));
                if len < 2 || at + len > packet.payload {
                    return false;
                }
                if kind == OPTION_MSS && len == 4 {
                    return lower(frame, at + 2, most, packet.l4, partial);
                }
                at += len;
            }
        }
    }
    false
}

fn lower(frame: &mut [u8], at: usize, most: u16, l4: usize, partial: bool) -> bool {
    let asked = get_u16(frame, at);
    if asked <= most {
        return false;
    }
    put_u16(frame, at, most);
    if !partial {
        let field = l4 + Transport::Tcp.checksum_offset();
        // An option at an odd place lies across two words of the sum, where its bytes count swapped.
        let word =
            |value: u16| u64::from(if (at - l4).is_multiple_of(2) { value } else { value.swap_bytes() });
        let sum = u64::from(!get_u16(frame, field)) + (0xffff - word(asked)) + word(most);
        put_u16(frame, field, !fold(sum));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::{complete_checksum, sum};
    use proptest::prelude::*;

    /// A TCP frame with the option `mss` behind `n_nops` others, its checksum partial.
    fn segment(ipv6: bool, flags: u8, n_nops: usize, mss: u16) -> Vec<u8> {
        let mut tcp = vec![0, 1, 0, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, flags, 0xff, 0xff, 0, 0, 0, 0];
        tcp.extend(vec![OPTION_NOP; n_nops]);
        tcp.extend([OPTION_MSS, 4]);
        tcp.extend(mss.to_be_bytes());
        tcp.resize(tcp.len().next_multiple_of(4), OPTION_END);
        tcp[12] = (tcp.len() / 4 * 16) as u8;
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if ipv6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, tcp.len() as u8, 6, 64]);
            frame.extend([0xfd; 32]);
        } else {
            frame.extend([8, 0, 0x45, 0, 0, 20 + tcp.len() as u8, 0, 0, 0x40, 0, 64, 6, 0, 0]);
            frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        }
        let l4 = frame.len();
        let tcp_len = tcp.len() as u64;
        frame.extend(tcp);
        let packet = Packet::parse(&frame).unwrap();
        let pseudo = fold(packet.pseudo_sum(&frame) + tcp_len);
        put_u16(&mut frame, l4 + 16, pseudo);
        frame
    }

    fn mss(frame: &[u8], n_nops: usize) -> u16 {
        let l4 = Packet::parse(frame).unwrap().l4;
        get_u16(frame, l4 + 20 + n_nops + 2)
    }

    #[test]
    fn only_syns_that_ask_for_more_are_changed() {
        for (ipv6, most) in [(false, 1158), (true, 1138)] {
            for flags in [0x02, 0x12] {
                let mut frame = segment(ipv6, flags, 0, 1378);
                let checksum = Packet::parse(&frame).unwrap().checksum(&frame);
                assert!(clamp_mss(&mut frame, true, 1212));
                assert_eq!(mss(&frame, 0), most);
                assert_eq!(Packet::parse(&frame).unwrap().checksum(&frame), checksum);
                assert!(!clamp_mss(&mut frame, true, 1212), "once is enough");
            }
            let mut data = segment(ipv6, 0x10, 0, 1378);
            assert!(!clamp_mss(&mut data, true, 1212));
            let mut small = segment(ipv6, 0x02, 0, 536);
            assert!(!clamp_mss(&mut small, true, 1212));
        }
    }

    proptest! {
        #[test]
        fn complete_checksums_stay_right(ipv6: bool, n_nops in 0usize..8, asked: u16, overlay_mtu in 1178u16..9000) {
            let mut frame = segment(ipv6, 0x02, n_nops, asked);
            let l4 = Packet::parse(&frame).unwrap().l4;
            let pseudo = get_u16(&frame, l4 + 16);
            prop_assert!(complete_checksum(&mut frame, l4, 16));
            let changed = clamp_mss(&mut frame, false, usize::from(overlay_mtu) + 14);
            prop_assert_eq!(changed, asked > overlay_mtu - if ipv6 { 60 } else { 40 });
            prop_assert_eq!(fold(sum(&frame[l4..]) + u64::from(pseudo)), 0xffff);
        }

        #[test]
        fn any_bytes_are_taken(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), ipv6: bool, cut in 0usize..100) {
            let mut frame = segment(ipv6, 0x02, 3, 1400);
            frame.truncate(cut);
            clamp_mss(&mut frame, false, 1280);
            clamp_mss(&mut bytes, true, 1280);
        }
    }
}
