//! A headless Chromium in a host's network, driven by its DevTools protocol over a pipe.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;
use std::{fs, fs::File};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use weft_e2e::SETTLE;
use weft_lab::{Host, wait_until};

/// How long the browser lives at most: what waits for it then sees its end.
const LIFE: Duration = Duration::from_secs(120);

/// Chromium as tests start it: it asks nothing of the outside.
pub(crate) const CHROMIUM: [&str; 9] = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// A browser with one page. Ended when dropped.
pub(crate) struct Browser {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    profile: PathBuf,
    session: Value,
    last_id: u64,
    /// What is answered in the host's place where the page asks for the status.
    status: Option<String>,
}

/// Keys that are no characters, and their codes.
const KEYS: [(&str, u32); 9] = [
    ("Tab", 9),
    ("Enter", 13),
    ("Escape", 27),
    ("End", 35),
    ("Home", 36),
    ("ArrowLeft", 37),
    ("ArrowUp", 38),
    ("ArrowRight", 39),
    ("ArrowDown", 40),
];

impl Browser {
    /// Opens `url` as the host does.
    pub(crate) fn open(host: &Host, url: &str) -> Result<Self> {
        let profile = host.log_path("browser-by-pipe")?.with_extension("profile");
        // The browser takes orders from its file 3 and answers on its file 4.
        let pipe = [
            "timeout",
            &LIFE.as_secs().to_string(),
            "sh",
            "-c",
            "exec \"$@\" 3<&0 4>&1 1>&2 </dev/null",
            "sh",
        ]
        .map(str::to_owned);
        let more = [
            "--remote-debugging-pipe".to_owned(),
            format!("--user-data-dir={}", profile.display()),
            "about:blank".into(),
        ];
        let args = pipe.into_iter().chain(CHROMIUM.map(str::to_owned)).chain(more);
        let mut child = host
            .command_in_network(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(host.log_path("browser")?)?)
            .spawn()
            .context("cannot start chromium")?;
        let orders = child.stdin.take().context("standard input is piped")?;
        let answers = BufReader::new(child.stdout.take().context("standard output is piped")?);
        let mut browser =
            Self { child, orders, answers, profile, session: Value::Null, last_id: 0, status: None };
        let targets = browser.call("Target.getTargets", json!({}))?;
        let pages = targets["targetInfos"].as_array().context("the browser lists its pages")?;
        let page = pages.iter().find(|target| target["type"] == "page").context("the browser has a page")?;
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        browser.session = browser.call("Target.attachToTarget", attach)?["sessionId"].clone();
        browser.call("Page.navigate", json!({ "url": url }))?;
        Ok(browser)
    }

    /// From now on the page hears this instead of the host's status.
    pub(crate) fn answer_with(&mut self, status: String) -> Result<()> {
        self.status = Some(status);
        self.call("Fetch.enable", json!({ "patterns": [{ "urlPattern": "*/v1/status" }] }))?;
        Ok(())
    }

    /// The value of an expression in the page.
    pub(crate) fn value(&mut self, expression: &str) -> Result<Value> {
        let done =
            self.call("Runtime.evaluate", json!({ "expression": expression, "returnByValue": true }))?;
        ensure!(done["exceptionDetails"].is_null(), "{expression}: {}", done["exceptionDetails"]);
        Ok(done["result"]["value"].clone())
    }

    /// Waits until an expression is true in the page.
    pub(crate) fn wait(&mut self, expression: &str) -> Result<()> {
        wait_until(expression, SETTLE, || Ok(self.value(expression)? == true))
    }

    /// Role and name of what has the focus, as the browser tells a screen reader; `None` when nothing has it.
    pub(crate) fn focused(&mut self) -> Result<Option<(String, String)>> {
        let found = self.call("Runtime.evaluate", json!({ "expression": "document.activeElement" }))?;
        let tree = json!({ "objectId": found["result"]["objectId"], "fetchRelatives": false });
        let tree = self.call("Accessibility.getPartialAXTree", tree)?;
        let text = |of: &str| tree["nodes"][0][of]["value"].as_str().unwrap_or_default().to_owned();
        let is_page = self.value("document.activeElement === document.body")? == true;
        Ok((!is_page).then(|| (text("role"), text("name"))))
    }

    /// Presses and releases a key: its name, or a character.
    pub(crate) fn press(&mut self, key: &str) -> Result<()> {
        self.press_with(key, 0)
    }

    /// The same with modifiers: 1 is Alt, 2 Ctrl, 8 Shift.
    pub(crate) fn press_with(&mut self, key: &str, modifiers: u32) -> Result<()> {
        let code = KEYS.iter().find(|(name, _)| *name == key).map(|(_, code)| *code);
        let text = match key {
            "Enter" => "\r",
            _ if code.is_some() => "",
            character => character,
        };
        let kind = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
        let mut event = json!({ "type": kind, "key": key, "modifiers": modifiers, "text": text });
        if let Some(code) = code {
            event["windowsVirtualKeyCode"] = code.into();
            event["code"] = key.into();
        }
        self.call("Input.dispatchKeyEvent", event.clone())?;
        event["type"] = "keyUp".into();
        self.call("Input.dispatchKeyEvent", event)?;
        Ok(())
    }

    /// Sends an order, and handles what comes until it is answered.
    fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        let id = self.send(method, &params)?;
        loop {
            let mut bytes = Vec::new();
            self.answers.read_until(0, &mut bytes)?;
            ensure!(bytes.pop() == Some(0), "the browser ended before it answered {method}");
            let message: Value = serde_json::from_slice(&bytes)?;
            if message["id"] == id {
                if !message["error"].is_null() {
                    bail!("{method}: {}", message["error"]);
                }
                return Ok(message["result"].clone());
            }
            if message["method"] == "Fetch.requestPaused" {
                let headers = json!([{ "name": "content-type", "value": "application/json" }]);
                let body = base64(self.status.clone().unwrap_or_default().as_bytes());
                let request = &message["params"]["requestId"];
                let answer = json!({ "requestId": request, "responseCode": 200, "responseHeaders": headers, "body": body });
                self.send("Fetch.fulfillRequest", &answer)?;
            }
        }
    }

    fn send(&mut self, method: &str, params: &Value) -> Result<u64> {
        self.last_id += 1;
        let mut order = json!({ "id": self.last_id, "method": method, "params": params });
        if !self.session.is_null() {
            order["sessionId"] = self.session.clone();
        }
        let mut bytes = serde_json::to_vec(&order)?;
        bytes.push(0);
        self.orders.write_all(&bytes).with_context(|| format!("the browser ended before {method}"))?;
        Ok(self.last_id)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends, with its processes, when it has no session's end to wait for; else `timeout` ends it.
        self.session = Value::Null;
        let _ = self.send("Browser.close", &json!({}));
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.profile);
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * place)) as usize & 63];
            text.push(if place > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    text
}
