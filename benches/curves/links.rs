//! Points out of the benchmark of links.

use std::{env, process::Command};

use serde::Deserialize;

use crate::draw::Curve;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What grows.
#[derive(Clone, Copy)]
pub(crate) enum Axis<'a> {
    /// Calls or streams at once, of 32 or 64 bytes.
    InFlight(&'a [u32]),
    /// Bytes, one call in flight.
    Size(&'a [u32]),
}

/// A line of the benchmark.
#[derive(Deserialize)]
struct Line {
    link: String,
    size: u32,
    inflight: u32,
    per_sec: f64,
    bytes_per_sec: f64,
}

/// A curve for each link: operations in a second, or bytes where the size grows.
pub(crate) fn measure(
    links: &[&str],
    workload: &str,
    axis: Axis<'_>,
    secs: f64,
) -> Result<Vec<Curve>, Failure> {
    let list = |values: &[u32]| values.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let small = if workload == "stream" { "64" } else { "32" };
    let (inflight, size) = match axis {
        Axis::InFlight(counts) => (list(counts), small.to_owned()),
        Axis::Size(sizes) => ("1".to_owned(), list(sizes)),
    };
    let mut command = Command::new(env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    command.args(["bench", "--quiet", "--bench", "links", "--", "--json", "--workload", workload]);
    command.args(["--link", &links.join(","), "--inflight", &inflight, "--size", &size]);
    let output = command.args(["--secs", &secs.to_string()]).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let lines = String::from_utf8(output.stdout)?;
    let lines: Vec<Line> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let points = |link: &str| {
        let of_link = lines.iter().filter(|line| line.link == link);
        let points = of_link.map(|line| match axis {
            Axis::InFlight(_) => (line.inflight.into(), line.per_sec),
            Axis::Size(_) => (line.size.into(), line.bytes_per_sec),
        });
        points.collect()
    };
    Ok(links.iter().map(|link| Curve { name: (*link).to_owned(), points: points(link) }).collect())
}
