//! Takes secrets out of a text.

/// What stands where something was.
const MARK: &str = "[redacted]";
/// What the text of a join token begins with.
const TOKEN: &str = "weft-token-";
/// Shorter words are not taken for a secret: the text would become unreadable, and no secret is as short.
const MIN_SECRET_LEN: usize = 16;

/// Knows what must not be shown.
pub(super) struct Redactor {
    secrets: Vec<String>,
}

impl Redactor {
    /// Takes the cluster's secrets as texts. Also taken out, wherever they are: join tokens, and what stands before the
    /// `@` in a URL.
    pub(super) fn new(secrets: Vec<String>) -> Self {
        let mut secrets: Vec<String> = secrets.into_iter().filter(|s| s.len() >= MIN_SECRET_LEN).collect();
        // The longest first, so that no rest of one stays where a shorter one is a part of it.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self { secrets }
    }

    pub(super) fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), MARK);
            text = text.replace(&secret.to_uppercase(), MARK);
        }
        credentials(&tokens(&text))
    }
}

fn tokens(text: &str) -> String {
    let mut parts = text.split(TOKEN);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(part.len());
        out += TOKEN;
        out += MARK;
        out += &part[end..];
    }
    out
}

/// `scheme://user:password@host` becomes `scheme://[redacted]@host`.
fn credentials(text: &str) -> String {
    let mut parts = text.split("://");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out += "://";
        let end = part.find(|c: char| c.is_whitespace() || "/\"'".contains(c)).unwrap_or(part.len());
        let (authority, rest) = part.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => out += &format!("{MARK}@{host}"),
            None => out += authority,
        }
        out += rest;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_tokens_and_credentials_go_and_the_rest_stays() {
        let secret = "0123456789abcdef".repeat(4);
        let redactor = Redactor::new(vec![secret.clone(), String::new(), "short".to_owned()]);
        let text = format!(
            "a {secret} b\n{}\nweft join h weft-token-{}, done\nproxy=http://u:p@10.0.0.1:3128/x https://plain/y short",
            secret.to_uppercase(),
            "fe".repeat(32)
        );
        assert_eq!(
            redactor.redact(&text),
            "a [redacted] b\n[redacted]\nweft join h weft-token-[redacted], done\n\
             proxy=http://[redacted]@10.0.0.1:3128/x https://plain/y short"
        );
    }

    #[test]
    fn a_secret_within_another_leaves_no_rest() {
        let (long, short) = ("ab".repeat(32), "ab".repeat(16));
        assert_eq!(Redactor::new(vec![short, long.clone()]).redact(&long), MARK);
    }
}
