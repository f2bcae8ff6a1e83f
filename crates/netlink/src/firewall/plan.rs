//! Which rule goes where: from a table to the edits that put it right.

use std::collections::{BTreeMap, BTreeSet};

use super::rules::FilterTable;

const DOCKER_USER: &str = "DOCKER-USER";
const FORWARD: &str = "FORWARD";

/// One change to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Edit {
    /// Set the bridge's rule first in the chain.
    Insert { chain: &'static str, bridge: String },
    /// Remove one of the bridge's rules from the chain.
    Delete { chain: String, bridge: String },
}

/// The chain that the rules belong in; `None` when the table lets bridged frames pass anyway.
pub(super) fn chain(table: &FilterTable) -> Option<&'static str> {
    let jump =
        table.rules_of(FORWARD).any(|r| r.target.as_deref() == Some(DOCKER_USER) && r.is_unconditional());
    if jump && table.has_chain(DOCKER_USER) {
        return Some(DOCKER_USER);
    }
    let open = table.policy(FORWARD).is_none_or(|policy| policy == "ACCEPT");
    let empty = table.rules_of(FORWARD).all(|rule| rule.bridge().is_some());
    (!open || !empty).then_some(FORWARD)
}

/// What makes `table` have exactly one effective rule for each of `bridges`, and no other rule of weft.
///
/// A rule behind an unconditional RETURN has no effect and is set anew; one behind an unconditional DROP is left
/// there, for that is the operator's will.
pub(super) fn ensure(table: &FilterTable, bridges: &[String]) -> Vec<Edit> {
    let home = chain(table);
    let mut returned = BTreeSet::new();
    // By chain and bridge: how many rules there are, and whether the last has an effect.
    let mut found: BTreeMap<(&str, &str), (usize, bool)> = BTreeMap::new();
    for rule in &table.rules {
        let chain = rule.chain.as_str();
        if rule.is_unconditional() && rule.target.as_deref() == Some("RETURN") {
            returned.insert(chain);
        }
        if let Some(bridge) = rule.bridge() {
            let (n_rules, effective) = found.entry((chain, bridge)).or_default();
            *n_rules += 1;
            *effective = Some(chain) == home && !returned.contains(chain);
        }
    }
    let mut wanted: BTreeSet<&str> = bridges.iter().map(String::as_str).collect();
    let mut edits = Vec::new();
    for ((chain, bridge), (n_rules, effective)) in found {
        // Deletion is by content and takes the first that matches: of several the last can be kept, and what is new
        // goes in after it.
        let n_kept = usize::from(effective && wanted.remove(bridge));
        let delete = Edit::Delete { chain: chain.to_owned(), bridge: bridge.to_owned() };
        edits.extend(std::iter::repeat_n(delete, n_rules - n_kept));
    }
    if let Some(chain) = home {
        edits.extend(wanted.into_iter().map(|bridge| Edit::Insert { chain, bridge: bridge.to_owned() }));
    }
    edits
}

/// What removes every rule of `bridge`.
pub(super) fn remove(table: &FilterTable, bridge: &str) -> Vec<Edit> {
    let rules = table.rules.iter().filter(|rule| rule.bridge() == Some(bridge));
    rules.map(|rule| Edit::Delete { chain: rule.chain.clone(), bridge: bridge.to_owned() }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::rules::{COMMENT, Rule};
    use super::*;
    use proptest::prelude::*;

    const A: &str = "wfb00000000000a";
    const B: &str = "wfb00000000000b";
    const DOCKER: &str =
        "-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\n";

    fn ours(chain: &str, bridge: &str) -> String {
        format!("-A {chain} -i {bridge} -o {bridge} -m comment --comment {COMMENT} -j ACCEPT\n")
    }

    fn insert(chain: &'static str, bridge: &str) -> Edit {
        Edit::Insert { chain, bridge: bridge.into() }
    }

    fn delete(chain: &str, bridge: &str) -> Edit {
        Edit::Delete { chain: chain.into(), bridge: bridge.into() }
    }

    fn edits(text: &str, bridges: &[&str]) -> Vec<Edit> {
        ensure(&FilterTable::parse(text), &bridges.iter().map(|b| (*b).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn rules_go_where_the_table_says() {
        let cases = [
            (DOCKER.to_owned(), Some(DOCKER_USER)),
            ("-P FORWARD ACCEPT\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n".to_owned(), Some(DOCKER_USER)),
            ("-P FORWARD DROP\n".to_owned(), Some(FORWARD)),
            ("-P FORWARD DROP\n-N DOCKER-USER\n".to_owned(), Some(FORWARD)),
            ("-P FORWARD ACCEPT\n-A FORWARD -j REJECT\n".to_owned(), Some(FORWARD)),
            ("-P FORWARD ACCEPT\n".to_owned(), None),
            (String::new(), None),
            ("-P FORWARD ACCEPT\n".to_owned() + &ours(FORWARD, A), None),
        ];
        for (text, home) in cases {
            assert_eq!(chain(&FilterTable::parse(&text)), home, "{text}");
        }
    }

    #[test]
    fn missing_double_stale_and_misplaced_rules_are_put_right() {
        assert_eq!(edits(DOCKER, &[A]), [insert(DOCKER_USER, A)]);
        let table = DOCKER.replace("-A DOCKER-USER", &(ours(DOCKER_USER, A) + "-A DOCKER-USER"));
        assert_eq!(edits(&table, &[A]), []);
        assert_eq!(edits(&table, &[B]), [delete(DOCKER_USER, A), insert(DOCKER_USER, B)]);
        assert_eq!(edits(&table, &[]), [delete(DOCKER_USER, A)]);
        let double = table.replace("-A FORWARD", &(ours(DOCKER_USER, A) + "-A FORWARD"));
        assert_eq!(edits(&double, &[A]), [delete(DOCKER_USER, A)]);
        let misplaced = ours(FORWARD, A) + DOCKER;
        assert_eq!(edits(&misplaced, &[A]), [delete(FORWARD, A), insert(DOCKER_USER, A)]);
        let behind_return = DOCKER.to_owned() + &ours(DOCKER_USER, A);
        assert_eq!(edits(&behind_return, &[A]), [delete(DOCKER_USER, A), insert(DOCKER_USER, A)]);
    }

    #[test]
    fn open_tables_need_no_rule_and_lose_ours() {
        assert_eq!(edits("-P FORWARD ACCEPT\n", &[A]), []);
        assert_eq!(
            edits(&("-P FORWARD ACCEPT\n".to_owned() + &ours(FORWARD, A)), &[A]),
            [delete(FORWARD, A)]
        );
    }

    #[test]
    fn remove_takes_every_rule_of_that_bridge_only() {
        let text = ours(FORWARD, A) + DOCKER + &ours(DOCKER_USER, A) + &ours(DOCKER_USER, B);
        assert_eq!(remove(&FilterTable::parse(&text), A), [delete(FORWARD, A), delete(DOCKER_USER, A)]);
    }

    /// What the programs do: `-I chain` and `-D chain` by content.
    fn apply(table: &mut FilterTable, edit: &Edit) {
        match edit {
            Edit::Insert { chain, bridge } => {
                let rule = FilterTable::parse(&ours(chain, bridge)).rules.remove(0);
                table.rules.insert(0, rule);
            }
            Edit::Delete { chain, bridge } => {
                let first = |r: &Rule| r.chain == *chain && r.bridge() == Some(bridge.as_str());
                let index = table.rules.iter().position(first).expect("only what is there is deleted");
                table.rules.remove(index);
            }
        }
    }

    proptest! {
        #[test]
        fn any_table_is_right_after_one_pass(
            policy in "ACCEPT|DROP",
            docker: bool,
            lines in proptest::collection::vec(0usize..8, 0..10),
            bridges in proptest::sample::subsequence(vec![A.to_owned(), B.to_owned()], 0..=2),
        ) {
            let choices = [
                ours(FORWARD, A), ours(FORWARD, B), ours(DOCKER_USER, A), ours(DOCKER_USER, B),
                "-A FORWARD -j DOCKER-USER\n".into(), "-A DOCKER-USER -j RETURN\n".into(),
                "-A DOCKER-USER -i eth0 -j DROP\n".into(), "-A FORWARD -o docker0 -j ACCEPT\n".into(),
            ];
            let mut text = format!("-P FORWARD {policy}\n");
            if docker { text += "-N DOCKER-USER\n"; }
            lines.iter().for_each(|i| text += &choices[*i]);
            let mut table = FilterTable::parse(&text);
            let others = |t: &FilterTable| -> Vec<Rule> {
                t.rules.iter().filter(|r| r.bridge().is_none()).cloned().collect()
            };
            let before = others(&table);
            for edit in ensure(&table, &bridges) {
                apply(&mut table, &edit);
            }
            prop_assert_eq!(ensure(&table, &bridges), vec![]);
            prop_assert_eq!(others(&table), before, "rules of others stay, in order");
            let n_ours = table.rules.iter().filter(|r| r.bridge().is_some()).count();
            prop_assert_eq!(n_ours, if chain(&table).is_some() { bridges.len() } else { 0 });
        }
    }
}
