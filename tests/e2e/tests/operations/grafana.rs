//! The dashboard that is shipped, asked of a Prometheus that scrapes a host.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_e2e::{Cluster, SETTLE};
use weft_lab::{Host, wait_until};

const DASHBOARD: &str = include_str!("../../../../deploy/grafana/weft.json");
const PROMETHEUS: &str = "127.0.0.1:9790";

/// Panels that are empty while all is well.
const MAY_BE_EMPTY: [&str; 2] = ["Dropped, by reason", "Links that are down"];

/// The answer to a query, or what Prometheus has against it.
fn ask(host: &Host, query: &str) -> Result<Vec<Value>> {
    let url = format!("http://{PROMETHEUS}/api/v1/query");
    let query = format!("query={query}");
    let curl = ["curl", "--silent", "--max-time", "10", "--get", "--data-urlencode", &query, &url];
    let answer: Value = serde_json::from_str(&host.run_in_network(curl)?)?;
    ensure!(answer["status"] == "success", "{query}: {answer}");
    Ok(answer["data"]["result"].as_array().context("a vector")?.clone())
}

pub(crate) fn dashboard_has_answers(cluster: &Cluster) -> Result<()> {
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let panels = dashboard["panels"].as_array().context("a dashboard has panels")?;
    let host = cluster.manager();
    let network = cluster.network(&[])?;
    network.run(host, &[])?;

    let (config, data) = (host.log_path("prometheus.yml")?, host.log_path("prometheus-data")?);
    let scrape = "scrape_configs: [{ job_name: weft, scrape_interval: 1s, \
                  static_configs: [{ targets: ['127.0.0.1:6784'] }] }]\n";
    fs::write(&config, scrape)?;
    let config = format!("--config.file={}", config.display());
    let data = format!("--storage.tsdb.path={}", data.display());
    let listen = format!("--web.listen-address={PROMETHEUS}");
    let prometheus = host.spawn_in_network("prometheus", ["prometheus", &config, &data, &listen])?;
    // A rate wants two samples.
    wait_until("three scrapes", SETTLE, || {
        let n = ask(host, "count_over_time(weft_ready[1m]) >= 3")?;
        Ok(n.len() == 1)
    })
    .with_context(|| prometheus.text().unwrap_or_default())?;

    for panel in panels {
        let title = panel["title"].as_str().context("a panel has a title")?;
        let targets = panel["targets"].as_array().context("a panel has targets")?;
        ensure!(!targets.is_empty(), "{title} asks for nothing");
        for target in targets {
            let query = target["expr"].as_str().context("a target has a query")?;
            let query = query.replace("$host", ".*").replace("$__rate_interval", "30s");
            let answer = ask(host, &query)?;
            ensure!(MAY_BE_EMPTY.contains(&title) || !answer.is_empty(), "{title}: no answer to {query}");
            // What a line's name is made of must be there.
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
                for series in &answer {
                    ensure!(
                        !series["metric"][label].is_null(),
                        "{title}: {label} of {legend:?} is not in {series}"
                    );
                }
            }
        }
    }
    prometheus.signal("TERM").context("the end of prometheus").map(drop)?;
    network.remove()
}
