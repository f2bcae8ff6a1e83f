//! The table, the ratios, and the same as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

use super::ground::Underlay;
use super::measure::{Figures, NAMES};
use super::overlay::Overlay;

/// A ratio or difference that says how weft stands: name, weft's side, the other side, figure, what was aimed at.
const AIMS: [Aim; 16] = [
    Aim {
        name: "tcp1_aes_to_vxlan",
        of: Overlay::WeftAes,
        to: Overlay::Vxlan,
        figure: "tcp1_gbps",
        least: 0.60,
    },
    Aim {
        name: "tcp4_aes_to_vxlan",
        of: Overlay::WeftAes,
        to: Overlay::Vxlan,
        figure: "tcp4_gbps",
        least: 0.50,
    },
    Aim {
        name: "tcp1_chacha_to_vxlan",
        of: Overlay::WeftChacha,
        to: Overlay::Vxlan,
        figure: "tcp1_gbps",
        least: 0.0,
    },
    Aim {
        name: "tcp1_aes_to_wireguard_go",
        of: Overlay::WeftAes,
        to: Overlay::WireguardGo,
        figure: "tcp1_gbps",
        least: 4.0,
    },
    Aim {
        name: "tcp1_aes_to_vpncloud",
        of: Overlay::WeftAes,
        to: Overlay::Vpncloud,
        figure: "tcp1_gbps",
        least: 0.0,
    },
    Aim {
        name: "udp64_aes_to_vxlan",
        of: Overlay::WeftAes,
        to: Overlay::Vxlan,
        figure: "udp64_kpps",
        least: 1.2,
    },
    Aim {
        name: "udp64_delivered_aes_to_vxlan",
        of: Overlay::WeftAes,
        to: Overlay::Vxlan,
        figure: "udp64_delivered_kpps",
        least: 0.0,
    },
    Aim {
        name: "udp1400_aes_to_vxlan",
        of: Overlay::WeftAes,
        to: Overlay::Vxlan,
        figure: "udp1400_kpps",
        least: 0.0,
    },
    Aim {
        name: "tcp1_forwarder_to_vxlan",
        of: Overlay::Forwarder,
        to: Overlay::Vxlan,
        figure: "tcp1_gbps",
        least: 0.0,
    },
    Aim {
        name: "udp64_forwarder_to_vxlan",
        of: Overlay::Forwarder,
        to: Overlay::Vxlan,
        figure: "udp64_kpps",
        least: 0.0,
    },
    Aim {
        name: "tcp1_aes_to_forwarder",
        of: Overlay::WeftAes,
        to: Overlay::Forwarder,
        figure: "tcp1_gbps",
        least: 0.0,
    },
    Aim {
        name: "tcp1_aes_to_before",
        of: Overlay::WeftAes,
        to: Overlay::WeftBefore,
        figure: "tcp1_gbps",
        least: 0.0,
    },
    Aim {
        name: "tcp4_aes_to_before",
        of: Overlay::WeftAes,
        to: Overlay::WeftBefore,
        figure: "tcp4_gbps",
        least: 0.0,
    },
    Aim {
        name: "cpu_aes_to_before",
        of: Overlay::WeftAes,
        to: Overlay::WeftBefore,
        figure: "overlay_cpu_s_per_gb",
        least: 0.0,
    },
    Aim {
        name: "same_host_to_bridge",
        of: Overlay::WeftLocal,
        to: Overlay::Bridge,
        figure: "tcp1_gbps",
        least: 0.95,
    },
    Aim {
        name: "same_host_to_bridge_of_weft_mtu",
        of: Overlay::WeftLocal,
        to: Overlay::BridgeOfWeftMtu,
        figure: "tcp1_gbps",
        least: 0.0,
    },
];
/// Most that weft's idle round-trip time may be above VXLAN's, in microseconds.
const RTT_MARGIN: f64 = 30.0;
/// Most processor time of both routers for a gigabyte, in seconds.
const CPU_MOST: f64 = 1.0;

struct Aim {
    name: &'static str,
    of: Overlay,
    to: Overlay,
    figure: &'static str,
    /// 0: nothing is aimed at; the ratio informs.
    least: f64,
}

/// What a run found.
pub(super) struct Report {
    pub(super) medians: BTreeMap<Overlay, Figures>,
    underlay: Underlay,
    runs: u32,
    seconds: u32,
}

impl Report {
    pub(super) fn new(
        medians: BTreeMap<Overlay, Figures>,
        underlay: Underlay,
        runs: u32,
        seconds: u32,
    ) -> Self {
        Self { medians, underlay, runs, seconds }
    }

    pub(super) fn get(&self, overlay: Overlay, figure: &str) -> Option<f64> {
        self.medians.get(&overlay)?.get(figure)
    }

    /// Name, value, and what is said of it.
    fn ratios(&self) -> Vec<(&'static str, f64, String)> {
        let mut rows = Vec::new();
        for aim in &AIMS {
            let Some((of, to)) = self.get(aim.of, aim.figure).zip(self.get(aim.to, aim.figure)) else {
                continue;
            };
            let verdict = match aim.least {
                0.0 => String::new(),
                least => format!("aim: at least {least} {}", met(of / to >= least)),
            };
            rows.push((aim.name, of / to, verdict));
        }
        let rtt = |overlay| self.get(overlay, "rtt_us_p50");
        if let Some((weft, vxlan)) = rtt(Overlay::WeftAes).zip(rtt(Overlay::Vxlan)) {
            let above = weft - vxlan;
            let verdict = format!("aim: at most {RTT_MARGIN} {}", met(above <= RTT_MARGIN));
            rows.push(("rtt_us_p50_aes_minus_vxlan", above, verdict));
        }
        if let Some(cpu) = self.get(Overlay::WeftAes, "overlay_cpu_s_per_gb") {
            let verdict = format!("aim: at most {CPU_MOST} {}", met(cpu <= CPU_MOST));
            rows.push(("overlay_cpu_s_per_gb_aes", cpu, verdict));
        }
        rows
    }

    pub(super) fn json(&self) -> Value {
        let configs: Map<String, Value> = self
            .medians
            .iter()
            .map(|(overlay, figures)| {
                let figures: Map<String, Value> = NAMES
                    .iter()
                    .filter_map(|(name, _)| Some(((*name).to_owned(), json!(rounded(figures.get(name)?)))))
                    .collect();
                (overlay.to_string(), Value::Object(figures))
            })
            .collect();
        let ratios: Map<String, Value> = self
            .ratios()
            .into_iter()
            .map(|(name, value, _)| (name.to_owned(), json!(rounded(value))))
            .collect();
        json!({
            "configs": configs,
            "ratios": ratios,
            "conditions": {
                "runs": self.runs,
                "seconds": self.seconds,
                "underlay_mtu": self.underlay.mtu,
                "loss_permille": self.underlay.loss_permille,
                "reorder_permille": self.underlay.reorder_permille,
                "segmented": self.underlay.segmented,
                "offloads": self.underlay.offloads,
                "congestion_control": self.underlay.congestion_control,
            }
        })
    }
}

fn met(met: bool) -> &'static str {
    if met { "(met)" } else { "(missed)" }
}

/// Three digits after the point say all that a run can.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Underlay { mtu, loss_permille, reorder_permille, segmented, offloads, ref congestion_control } =
            self.underlay;
        writeln!(
            f,
            "medians of {} rounds of {} s; underlay MTU {mtu}, TCP {congestion_control}",
            self.runs, self.seconds
        )?;
        if segmented {
            writeln!(
                f,
                "datagrams pass one by one, {loss_permille} of 1000 are dropped, {reorder_permille} come late"
            )?;
        }
        if !offloads {
            writeln!(f, "offloads are off")?;
        }
        write!(f, "\n| |")?;
        self.medians.keys().try_for_each(|overlay| write!(f, " {overlay} |"))?;
        write!(f, "\n|---|")?;
        self.medians.keys().try_for_each(|_| write!(f, "---|"))?;
        for (name, digits) in NAMES {
            if self.medians.values().all(|figures| figures.get(name).is_none()) {
                continue;
            }
            write!(f, "\n| {name} |")?;
            for figures in self.medians.values() {
                match figures.get(name) {
                    Some(value) => write!(f, " {value:.digits$} |")?,
                    None => write!(f, " – |")?,
                }
            }
        }
        writeln!(f, "\n")?;
        for (name, value, verdict) in self.ratios() {
            writeln!(f, "{name:<28} {value:>8.2}  {verdict}")?;
        }
        Ok(())
    }
}
