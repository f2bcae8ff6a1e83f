//! `weft status` and `weft peers`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use weft_api::{
    Client, Status, render_endpoints, render_networks, render_peers, render_routes, render_services,
    render_status,
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
        let (text, ready) = look(socket, part, form).await?;
        std::io::stdout().write_all(text.as_bytes())?;
        return Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    };
    // A daemon that restarts is looked for again, as that is what one watches for.
    let clears = form == Form::Table && std::io::stdout().is_terminal();
    let mut interval = tokio::time::interval(Duration::from_secs(seconds.into()));
    loop {
        interval.tick().await;
        let shown = match look(socket.clone(), part, form).await {
            Ok((text, _)) => text,
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

/// What is to be shown, and whether traffic is carried.
async fn look(socket: Option<PathBuf>, part: Option<Part>, form: Form) -> anyhow::Result<(String, bool)> {
    let client = Client::discover(socket).await?;
    if part == Some(Part::Routes) {
        // Refused unless traffic is carried.
        let routes = client.routes().await?;
        return Ok((if form == Form::Json { json(&routes)? } else { render_routes(&routes) }, true));
    }
    let status = client.status().await?;
    Ok((text(&status, part, form)?, status.ready))
}

fn json(value: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn text(status: &Status, part: Option<Part>, form: Form) -> anyhow::Result<String> {
    Ok(match (form, part) {
        // Routes are asked for by themselves.
        (Form::Table, None | Some(Part::Routes)) => render_status(status),
        (Form::Table, Some(Part::Peers)) => render_peers(status),
        (Form::Table, Some(Part::Networks)) => render_networks(status),
        (Form::Table, Some(Part::Endpoints)) => render_endpoints(status),
        (Form::Table, Some(Part::Services)) => render_services(status),
        (Form::Json, None | Some(Part::Routes)) => json(status)?,
        (Form::Json, Some(Part::Peers)) => json(&status.peers)?,
        (Form::Json, Some(Part::Networks)) => json(&status.networks)?,
        (Form::Json, Some(Part::Endpoints)) => json(&status.endpoints)?,
        (Form::Json, Some(Part::Services)) => json(&status.services)?,
    })
}
