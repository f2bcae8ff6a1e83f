//! The picture: one bar a configuration, for three figures.

use std::fmt::Write as _;

use super::overlay::Overlay;
use super::report::Report;

const PANELS: [(&str, &str); 3] = [
    ("tcp1_gbps", "TCP, one stream, Gb/s"),
    ("tcp4_gbps", "TCP, four streams, Gb/s"),
    ("udp64_kpps", "UDP, 64 bytes, thousand/s"),
];
const ROW: f64 = 22.0;
const LABEL: f64 = 110.0;
const BAR: f64 = 460.0;
const WIDTH: f64 = 660.0;

/// Draws the report as SVG, readable without colour: every bar carries its name and its value.
pub(super) fn svg(report: &Report) -> String {
    let across: Vec<Overlay> = report
        .medians
        .keys()
        .copied()
        .filter(|overlay| !matches!(overlay, Overlay::Bridge | Overlay::BridgeOfWeftMtu | Overlay::WeftLocal))
        .collect();
    let panel_height = ROW * (across.len() as f64 + 2.0);
    let height = panel_height * PANELS.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (panel, (figure, title)) in PANELS.iter().enumerate() {
        let top = panel as f64 * panel_height;
        let values: Vec<Option<f64>> = across.iter().map(|overlay| report.get(*overlay, figure)).collect();
        let most = values.iter().flatten().copied().fold(f64::MIN_POSITIVE, f64::max);
        let _ = writeln!(out, "<text x=\"8\" y=\"{}\" font-weight=\"bold\">{title}</text>", top + ROW * 0.9);
        for (row, (overlay, value)) in across.iter().zip(&values).enumerate() {
            let y = top + ROW * (row as f64 + 1.2);
            let Some(value) = value else { continue };
            let width = value / most * BAR;
            let fill = if overlay.to_string().starts_with("weft") { "#0b6e99" } else { "#b8c4cc" };
            let _ = writeln!(
                out,
                "<text x=\"8\" y=\"{text}\">{overlay}</text><rect x=\"{LABEL}\" y=\"{y}\" width=\"{width:.1}\" \
                 height=\"{bar}\" fill=\"{fill}\"/><text x=\"{after:.1}\" y=\"{text}\">{value:.1}</text>",
                text = y + ROW * 0.65,
                bar = ROW * 0.8,
                after = LABEL + width + 6.0,
            );
        }
    }
    out.push_str("</svg>\n");
    out
}
