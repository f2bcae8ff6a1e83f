//! Prometheus' text format: families of samples.

use std::fmt::{Display, Write};

/// What a family's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows, but for restarts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bound.
    Histogram,
}

/// A page that is being written. Families must have different names, and the samples of one different labels.
#[derive(Debug, Default)]
pub(super) struct Page(String);

/// A family that is being written.
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Page {
    /// Begins a family. One without samples is a valid one.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "# HELP {name} {}\n# TYPE {name} {kind}", escape(help, false));
        Family { text: &mut self.0, name }
    }

    /// A family with one sample without labels, or none.
    pub(super) fn value(&mut self, name: &'static str, kind: Kind, help: &str, value: Option<impl Display>) {
        let mut family = self.family(name, kind, help);
        if let Some(value) = value {
            family.sample(&[], value);
        }
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// One sample. Rust prints numbers as the format wants them: integers whole, floats without an exponent.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.part("", labels, value);
    }

    /// A sample whose name is the family's with `suffix`: of a histogram.
    pub(super) fn part(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (i, (name, value)) in labels.iter().enumerate() {
            let before = if i == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{name}=\"{}\"", escape(value, true));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{after} {value}");
    }
}

/// A help text escapes backslashes and line feeds, the value of a label quotes as well.
fn escape(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_as_the_format_says() {
        let mut page = Page::default();
        page.family("a_total", Kind::Counter, "With a \\ and\na \"line\".")
            .sample(&[("x", "say \"\\\n\""), ("y", "")], 18_446_744_073_709_551_615_u64);
        page.value("b", Kind::Gauge, "None.", None::<u8>);
        page.value("c", Kind::Gauge, "Small.", Some(0.000_000_5));
        let text = concat!(
            "# HELP a_total With a \\\\ and\\na \"line\".\n# TYPE a_total counter\n",
            "a_total{x=\"say \\\"\\\\\\n\\\"\",y=\"\"} 18446744073709551615\n",
            "# HELP b None.\n# TYPE b gauge\n",
            "# HELP c Small.\n# TYPE c gauge\nc 0.0000005\n",
        );
        assert_eq!(page.into_text(), text);
    }
}
