//! Real containers that ask for addresses, and that use others'.

#[path = "bed/bed.rs"]
mod bed;

use std::net::UdpSocket;

use anyhow::{Result, ensure};
use bed::{Bed, LIMIT, MACS, NETWORK, Plan, eventually, inner_v4, inner_v6};
use weft_dataplane::DropReason;
use weft_router::NodeInput;
use weft_wire::{HEADER_LEN, InnerHeader, InnerKind, Lane, Mac, TAG_LEN};

fn dropped(bed: &Bed, i: usize, reason: DropReason) -> u64 {
    bed.router(i).stats().dropped(reason)
}

fn send(bed: &Bed, from: &str, to: &str) -> Result<()> {
    let (from, to) = (from.to_owned(), to.to_owned());
    bed.in_ns("c0", move || UdpSocket::bind((from.as_str(), 0))?.send_to(b"x", (to.as_str(), 9)))??;
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn questions_are_answered_without_the_other_host() -> Result<()> {
    let bed = Bed::new(Plan::default())?;
    // What is sent finds no one, so that only the router can have answered.
    bed.exec("h0", "ip link set eth0 down")?;
    for (from, to) in [(inner_v4(0, "w"), inner_v4(1, "w")), (inner_v6(0, "w"), inner_v6(1, "w"))] {
        eventually("an answer", || {
            // The kernel asks when it has something to send.
            send(&bed, &from, &to)?;
            let neighbors = bed.exec("c0", &format!("ip neigh show {to} dev eth-w"))?;
            Ok(neighbors.contains(&MACS[1].to_string()))
        })?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn an_address_without_a_record_is_told_and_not_flooded() -> Result<()> {
    let bed = Bed::new(Plan::default())?;
    for (i, (from, to)) in
        [(inner_v4(0, "w"), inner_v4(76, "w")), (inner_v6(0, "w"), inner_v6(76, "w"))].into_iter().enumerate()
    {
        let sent = bed.router(0).stats().datagrams_sent;
        eventually("the question", || {
            send(&bed, &from, &to)?;
            Ok(dropped(&bed, 0, DropReason::UnknownNeighbor) > i as u64)
        })?;
        let wanted: std::net::IpAddr = to.parse()?;
        eventually("the node's hint", || {
            let inputs = bed.inputs[0].lock().unwrap();
            Ok(inputs.iter().any(
                |input| matches!(input, NodeInput::UnknownNeighbor { network: NETWORK, ip } if *ip == wanted),
            ))
        })?;
        if i == 0 {
            ensure!(bed.router(0).stats().datagrams_sent <= sent + 8, "questions were flooded");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_container_that_uses_anothers_address_is_cut_off() -> Result<()> {
    let bed = Bed::new(Plan::default())?;
    bed.exec("c0", &format!("ip addr add {}/32 dev eth-w", inner_v4(40, "w")))?;
    // With its neighbour known it sends, and without it asks in the foreign name.
    send(&bed, &inner_v4(0, "w"), &inner_v4(1, "w"))?;
    bed.exec("c0", &format!("ip neigh replace {} lladdr {} dev eth-w", inner_v4(1, "w"), MACS[1]))?;
    send(&bed, &inner_v4(40, "w"), &inner_v4(1, "w"))?;
    eventually("foreign_ip", || Ok(dropped(&bed, 0, DropReason::ForeignIp) > 0))?;
    bed.exec("c0", &format!("ip neigh del {} dev eth-w", inner_v4(1, "w")))?;
    send(&bed, &inner_v4(40, "w"), &inner_v4(1, "w"))?;
    eventually("foreign_neighbor", || Ok(dropped(&bed, 0, DropReason::ForeignNeighbor) > 0))?;

    bed.publish(0, |s| s.networks.values_mut().for_each(|view| view.spoof_check = false));
    bed.publish(1, |s| s.networks.values_mut().for_each(|view| view.spoof_check = false));
    bed.exec("c0", &format!("ip neigh replace {} lladdr {} dev eth-w", inner_v4(1, "w"), MACS[1]))?;
    let to = inner_v4(1, "w");
    let receiver = bed.in_ns("c1", move || UdpSocket::bind((to.as_str(), 9)))??;
    receiver.set_read_timeout(Some(LIMIT))?;
    send(&bed, &inner_v4(40, "w"), &inner_v4(1, "w"))?;
    let (_, from) = receiver.recv_from(&mut [0; 8])?;
    ensure!(from.ip().to_string() == inner_v4(40, "w"), "{from}");
    Ok(())
}

/// What host 0 would send, were it another program.
fn forged(bed: &Bed, frame: &[u8]) -> Vec<u8> {
    let inner = InnerHeader { kind: InnerKind::Frame, ttl: 1, network: NETWORK }.to_bytes();
    let mut datagram = [&[0; HEADER_LEN][..], &inner, frame, &[0; TAG_LEN]].concat();
    let counter = bed.sessions[0].reserve(Lane::CONTROL, 1).expect("a new session");
    bed.sessions[0].seal(Lane::CONTROL, counter, &mut datagram);
    datagram
}

#[test]
#[ignore = "needs root"]
fn a_peer_that_uses_anothers_address_is_cut_off() -> Result<()> {
    let bed = Bed::new(Plan::default())?;
    let ethernet = |ethertype: [u8; 2], rest: &[u8]| [&MACS[1].0[..], &MACS[0].0, &ethertype, rest].concat();
    let ip = [&[0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0][..], &[10, 119, 0, 2], &[10, 119, 0, 2]].concat();
    let arp = |mac: Mac, ip: [u8; 4]| {
        [&[0, 1, 8, 0, 6, 4, 0, 2][..], &mac.0, &ip, &MACS[1].0, &[10, 119, 0, 2]].concat()
    };
    let cases = [
        (ethernet([8, 0], &ip), DropReason::SpoofedIp),
        (ethernet([8, 6], &arp(MACS[0], [10, 119, 0, 2])), DropReason::SpoofedNeighbor),
        (ethernet([8, 6], &arp(MACS[1], [10, 119, 0, 1])), DropReason::SpoofedNeighbor),
        (ethernet([8, 6], &[1; 28]), DropReason::BadInner),
    ];
    for (frame, reason) in cases {
        let before = dropped(&bed, 1, reason);
        bed.router(0).send(bed.underlay(1), &forged(&bed, &frame))?;
        eventually(reason.name(), || Ok(dropped(&bed, 1, reason) == before + 1))?;
    }
    let before = bed.router(1).stats().tap_writes;
    let own = ethernet([8, 6], &arp(MACS[0], [10, 119, 0, 1]));
    bed.router(0).send(bed.underlay(1), &forged(&bed, &own))?;
    eventually("its own announcement", || Ok(bed.router(1).stats().tap_writes > before))
}
