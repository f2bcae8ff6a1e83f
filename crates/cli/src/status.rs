//! `weft status` and `weft peers`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use weft_api::{
    Client, Status, render_endpoints, render_networks, render_peers, render_services, render_status,
};

use crate::args::{Form, Part, View};

/// Prints the daemon's status; fails when it carries no traffic, so that scripts need not parse it.
pub(crate) async fn status(
    socket: Option<PathBuf>,
    part: Option<Part>,
    view: View,
) -> anyhow::Result<ExitCode> {
    let form = if view.json { Form::Json } else { view.output };
    let Some(seconds) = view.watch else {
        let status = Client::discover(socket).await?.status().await?;
        std::io::stdout().write_all(text(&status, part, form)?.as_bytes())?;
        return Ok(if status.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    };
    // A daemon that restarts is looked for again, as that is what one watches for.
    let clears = form == Form::Table && std::io::stdout().is_terminal();
    let mut interval = tokio::time::interval(Duration::from_secs(seconds.into()));
    loop {
        interval.tick().await;
        let shown = match look(socket.clone()).await {
            Ok(status) => text(&status, part, form)?,
            Err(error) => format!("weft: {error:#}\n"),
        };
        let mut out = std::io::stdout().lock();
        if clears {
            out.write_all(b"\x1b[H\x1b[2J\x1b[3J")?;
        }
        out.write_all(shown.as_bytes())?;
        out.flush()?;
    }
}

async fn look(socket: Option<PathBuf>) -> anyhow::Result<Status> {
    Ok(Client::discover(socket).await?.status().await?)
}

fn text(status: &Status, part: Option<Part>, form: Form) -> anyhow::Result<String> {
    Ok(match (form, part) {
        (Form::Table, None) => render_status(status),
        (Form::Table, Some(Part::Peers)) => render_peers(status),
        (Form::Table, Some(Part::Networks)) => render_networks(status),
        (Form::Table, Some(Part::Endpoints)) => render_endpoints(status),
        (Form::Table, Some(Part::Services)) => render_services(status),
        (Form::Json, None) => serde_json::to_string_pretty(status)? + "\n",
        (Form::Json, Some(Part::Peers)) => serde_json::to_string_pretty(&status.peers)? + "\n",
        (Form::Json, Some(Part::Networks)) => serde_json::to_string_pretty(&status.networks)? + "\n",
        (Form::Json, Some(Part::Endpoints)) => serde_json::to_string_pretty(&status.endpoints)? + "\n",
        (Form::Json, Some(Part::Services)) => serde_json::to_string_pretty(&status.services)? + "\n",
    })
}
