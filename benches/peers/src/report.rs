//! The table.

use crate::{
    case::{Case, Who},
    measure::Figures,
};

/// All lines of all rounds.
#[derive(Default)]
pub(crate) struct Report {
    lines: Vec<(Case, Vec<Figures>)>,
}

impl Report {
    /// Takes what one round says of a line.
    pub(crate) fn add(&mut self, case: Case, figures: Figures) {
        match self.lines.iter_mut().find(|(known, _)| *known == case) {
            Some((_, rounds)) => rounds.push(figures),
            None => self.lines.push((case, vec![figures])),
        }
    }

    /// Prints the medians, row by row, and their shares of what adjoin reaches in the same row.
    pub(crate) fn print(&self) {
        let head = [
            "work",
            "peer",
            "per s",
            "p50",
            "p99",
            "cpu/op",
            "/ shm",
            "/ uds",
            "cpu / shm",
            "cpu / uds",
            "calm",
        ];
        print(&head.map(str::to_owned));
        println!("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
        for (case, rounds) in &self.lines {
            let own = median(rounds);
            let of = |who| self.lines.iter().find(|(other, _)| *other == Case { who, ..*case });
            let share = |who, figure: fn(&Figures) -> f64| {
                let other = of(who).map(|(_, rounds)| figure(&median(rounds)));
                other.map_or_else(String::new, |other| format!("{:.2}", figure(&own) / other))
            };
            let latency = |nanos| if case.work.is_call() { time(nanos) } else { String::new() };
            print(&[
                case.row(),
                case.who.to_string(),
                rate(own.per_sec),
                latency(own.p50),
                latency(own.p99),
                time(own.cpu_per_op),
                share(Who::Shm, |figures| figures.per_sec),
                share(Who::Uds, |figures| figures.per_sec),
                share(Who::Shm, |figures| figures.cpu_per_op),
                share(Who::Uds, |figures| figures.cpu_per_op),
                rounds.iter().filter(|figures| figures.waited < DISTURBED).count().to_string(),
            ]);
        }
    }
}

/// The median of each figure, of the rounds that nobody disturbed, or of all if there is none.
fn median(rounds: &[Figures]) -> Figures {
    let calm: Vec<&Figures> = rounds.iter().filter(|figures| figures.waited < DISTURBED).collect();
    let rounds = if calm.is_empty() { rounds.iter().collect() } else { calm };
    let of = |figure: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(|figures| figure(figures)).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Figures {
        per_sec: of(|figures| figures.per_sec),
        p50: of(|figures| figures.p50),
        p99: of(|figures| figures.p99),
        cpu_per_op: of(|figures| figures.cpu_per_op),
        waited: of(|figures| figures.waited),
    }
}

/// The share of a line's time for which a side may have waited for its CPU.
const DISTURBED: f64 = 0.05;

/// A row of a table, for people and for Markdown.
fn print([work, peer, figures @ ..]: &[String; 11]) {
    let figures: Vec<String> = figures.iter().map(|figure| format!("{figure:>9}")).collect();
    println!("| {work:<24} | {peer:<11} | {} |", figures.join(" | "));
}

/// Nanoseconds, in the unit that suits them.
fn time(nanos: f64) -> String {
    match nanos {
        nanos if nanos < 1e3 => format!("{nanos:.0} ns"),
        nanos if nanos < 1e6 => format!("{:.1} us", nanos / 1e3),
        nanos => format!("{:.1} ms", nanos / 1e6),
    }
}

/// Operations in a second.
fn rate(per_sec: f64) -> String {
    match per_sec {
        per_sec if per_sec < 1e3 => format!("{per_sec:.0}"),
        per_sec if per_sec < 1e6 => format!("{:.1} k", per_sec / 1e3),
        per_sec => format!("{:.2} M", per_sec / 1e6),
    }
}
