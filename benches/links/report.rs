//! What was measured, for people and for programs.

use crate::{
    args::{Args, Case, Link},
    machine::Placement,
    measure::Figures,
};

/// Prints lines as they come, or the lines of a case at once where they are compared.
pub(crate) struct Report {
    json: bool,
    /// The lines of the case at hand.
    lines: Vec<(Link, Case, Figures)>,
}

impl Report {
    /// Prints the head.
    pub(crate) fn new(args: &Args, placed: Placement) -> Self {
        if !args.json {
            println!("{placed}; each side has a tokio current-thread runtime; {} s a line", args.secs);
            println!(
                "the library's settings on all links, and a window of 16 elements where one does not fit the default of 64 KiB; limits: no session"
            );
            println!("latency: unary, one call; stream, one send, credit included. cpu: of both processes\n");
            row(HEAD);
        }
        Report { json: args.json, lines: Vec::new() }
    }

    /// Takes a line.
    pub(crate) fn add(&mut self, link: Link, case: Case, figures: Figures) {
        if self.json {
            println!("{}", json(link, &case, &figures));
        } else {
            self.lines.push((link, case, figures));
        }
    }

    /// Prints the lines of a case, side by side.
    pub(crate) fn print(&mut self) {
        let best = |wanted: fn(Link) -> bool| {
            let lines = self.lines.iter().filter(move |(link, ..)| wanted(*link));
            lines.map(|(.., figures)| figures.per_sec()).reduce(f64::max)
        };
        let uds = best(|link| link == Link::Uds);
        let between = best(|link| link.is_limit() && !link.is_within());
        let within = best(|link| link.is_limit() && link.is_within());
        for (link, case, figures) in self.lines.drain(..) {
            let at = |quantile| time(figures.latency.value_at_quantile(quantile));
            let share =
                |of: Option<f64>| of.map_or(String::new(), |of| format!("{:.2}", figures.per_sec() / of));
            let limit = if link.is_within() { within } else { between };
            row([
                &case.workload.to_string(),
                &case.size.to_string(),
                &case.inflight.to_string(),
                &case.mode.to_string(),
                &link.to_string(),
                &format!("{:.0}", figures.per_sec()),
                &format!("{:.1}", figures.bytes_per_sec(&case) / 1e6),
                &at(0.5),
                &at(0.99),
                &at(0.999),
                &time(figures.latency.max()),
                &time(figures.cpu_ns_per_op() as u64),
                &share(uds),
                &share(limit),
            ]);
        }
    }
}

const HEAD: [&str; 14] = [
    "workload", "size", "x", "mode", "link", "per sec", "MB/s", "p50", "p99", "p99.9", "max", "cpu/op",
    "/ uds", "/ limit",
];

/// One line of the table.
fn row(
    [workload, size, inflight, mode, link, per_sec, mb, p50, p99, p999, max, cpu, uds, limit]: [&str; 14],
) {
    println!(
        "{workload:<13} {size:>8} {inflight:>4} {mode:<5} {link:<6} {per_sec:>12} {mb:>10} {p50:>9} {p99:>9} \
         {p999:>9} {max:>9} {cpu:>9} {uds:>7} {limit:>8}"
    );
}

impl Figures {
    fn per_sec(&self) -> f64 {
        self.n as f64 / self.secs
    }

    fn bytes_per_sec(&self, case: &Case) -> f64 {
        self.per_sec() * f64::from(case.size)
    }

    fn cpu_ns_per_op(&self) -> f64 {
        self.cpu_ns as f64 / self.n.max(1) as f64
    }
}

/// Nanoseconds, in the unit that suits them.
fn time(nanos: u64) -> String {
    match nanos as f64 {
        nanos if nanos < 1e3 => format!("{nanos:.0} ns"),
        nanos if nanos < 1e6 => format!("{:.1} us", nanos / 1e3),
        nanos => format!("{:.1} ms", nanos / 1e6),
    }
}

/// One object on one line. No value in it needs an escape.
fn json(link: Link, case: &Case, figures: &Figures) -> String {
    let Case { workload, size, inflight, mode } = case;
    let Figures { n, secs, latency, .. } = figures;
    let at = |quantile| latency.value_at_quantile(quantile);
    format!(
        "{{\"link\":\"{link}\",\"workload\":\"{workload}\",\"size\":{size},\"inflight\":{inflight},\
         \"mode\":\"{mode}\",\"n\":{n},\"secs\":{secs:.6},\"per_sec\":{:.1},\"bytes_per_sec\":{:.1},\
         \"p50_ns\":{},\"p99_ns\":{},\"p999_ns\":{},\"max_ns\":{},\"cpu_ns_per_op\":{:.1}}}",
        figures.per_sec(),
        figures.bytes_per_sec(case),
        at(0.5),
        at(0.99),
        at(0.999),
        latency.max(),
        figures.cpu_ns_per_op(),
    )
}
