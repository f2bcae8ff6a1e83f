//! What `iptables -S` prints, as far as weft has to understand it.

use crate::names;

/// The comment by which weft's rules are known.
pub(super) const COMMENT: &str = "weft";

/// A `filter` table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct FilterTable {
    /// Chains in the order printed, with the policy of built-in ones.
    pub(super) chains: Vec<(String, Option<String>)>,
    /// Rules in the order printed, which within a chain is the order of evaluation.
    pub(super) rules: Vec<Rule>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rule {
    pub(super) chain: String,
    pub(super) in_link: Option<String>,
    pub(super) out_link: Option<String>,
    pub(super) comment: Option<String>,
    pub(super) target: Option<String>,
    /// There is more to the rule than the fields above.
    pub(super) more: bool,
}

impl Rule {
    /// The bridge that this rule of weft is for; `None` when it is not one of weft's.
    pub(super) fn bridge(&self) -> Option<&str> {
        let bridge = self.in_link.as_deref()?;
        (self.comment.as_deref() == Some(COMMENT)
            && self.target.as_deref() == Some("ACCEPT")
            && self.out_link.as_deref() == Some(bridge)
            && names::network_of_bridge(bridge).is_some()
            && !self.more)
            .then_some(bridge)
    }

    /// Whether the rule matches every packet.
    pub(super) fn is_unconditional(&self) -> bool {
        self.in_link.is_none() && self.out_link.is_none() && !self.more
    }
}

impl FilterTable {
    /// Reads the output of `iptables -S`; lines of another form (warnings) are skipped.
    pub(super) fn parse(output: &str) -> Self {
        let mut table = Self::default();
        for line in output.lines() {
            let words = split(line);
            let mut words = words.iter().map(String::as_str);
            match (words.next(), words.next()) {
                (Some("-P"), Some(chain)) => {
                    table.chains.push((chain.to_owned(), words.next().map(str::to_owned)));
                }
                (Some("-N"), Some(chain)) => table.chains.push((chain.to_owned(), None)),
                (Some("-A"), Some(chain)) => table.rules.push(rule(chain, words)),
                _ => {}
            }
        }
        table
    }

    pub(super) fn has_chain(&self, name: &str) -> bool {
        self.chains.iter().any(|(chain, _)| chain == name)
    }

    pub(super) fn policy(&self, name: &str) -> Option<&str> {
        self.chains.iter().find(|(chain, _)| chain == name).and_then(|(_, policy)| policy.as_deref())
    }

    pub(super) fn rules_of<'a>(&'a self, chain: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(move |rule| rule.chain == chain)
    }
}

fn rule<'a>(chain: &str, mut words: impl Iterator<Item = &'a str>) -> Rule {
    let mut rule = Rule { chain: chain.to_owned(), ..Rule::default() };
    while let Some(word) = words.next() {
        let field = match word {
            "-i" => &mut rule.in_link,
            "-o" => &mut rule.out_link,
            "-j" => &mut rule.target,
            "--comment" => &mut rule.comment,
            "-m" => {
                // The match itself says nothing: what it matches follows.
                words.next();
                continue;
            }
            _ => {
                rule.more = true;
                continue;
            }
        };
        match words.next() {
            Some(value) if field.is_none() => *field = Some(value.to_owned()),
            _ => rule.more = true,
        }
    }
    rule
}

/// Splits a line into words, some of which are in double quotes with backslashes before quotes and backslashes.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(chars.next()),
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DOCKER_20: &str = r#"# Warning: iptables-legacy tables present, use iptables-legacy to see them
-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER-USER -i wfb00000000000a -o wfb00000000000a -m comment --comment weft -j ACCEPT
-A DOCKER-USER -i eth0 -m comment --comment "say \"no\" to all" -j DROP
-A DOCKER-USER -j RETURN
"#;

    #[test]
    fn dockers_table_is_read() {
        let table = FilterTable::parse(DOCKER_20);
        assert_eq!(table.policy("FORWARD"), Some("DROP"));
        assert!(table.has_chain("DOCKER-USER") && !table.has_chain("DOCKER-FORWARD"));
        let rules: Vec<_> = table.rules_of("DOCKER-USER").collect();
        assert_eq!(
            rules.iter().map(|r| r.bridge()).collect::<Vec<_>>(),
            [Some("wfb00000000000a"), None, None]
        );
        assert_eq!(rules[1].comment.as_deref(), Some("say \"no\" to all"));
        assert!(rules[2].is_unconditional() && !rules[1].is_unconditional());
        assert!(table.rules_of("FORWARD").skip(1).all(|r| r.more), "conntrack and ! -o are conditions");
    }

    #[test]
    fn rules_that_only_look_like_ours_are_not() {
        for line in [
            "-A DOCKER-USER -i wfb00000000000a -o wfb00000000000a -j ACCEPT",
            "-A DOCKER-USER -i wfb00000000000a -o wfb00000000000b -m comment --comment weft -j ACCEPT",
            "-A DOCKER-USER -i wfb00000000000a -o wfb00000000000a -m comment --comment weft -j DROP",
            "-A DOCKER-USER -i wfb00000000000a -o wfb00000000000a -m comment --comment \"weft net\" -j ACCEPT",
            "-A DOCKER-USER -i wfb00000000000a -o wfb00000000000a -p tcp -m comment --comment weft -j ACCEPT",
            "-A DOCKER-USER -i docker0 -o docker0 -m comment --comment weft -j ACCEPT",
            "-A DOCKER-USER ! -i wfb00000000000a -o wfb00000000000a -m comment --comment weft -j ACCEPT",
        ] {
            let table = FilterTable::parse(line);
            assert_eq!(table.rules.len(), 1);
            assert_eq!(table.rules[0].bridge(), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_output_is_read_without_panic(text in "\\PC*", lines in proptest::collection::vec("-[APN] [ -~]*", 0..8)) {
            let table = FilterTable::parse(&text);
            prop_assert!(table.rules.len() <= text.lines().count());
            FilterTable::parse(&lines.join("\n"));
        }
    }
}
