//! The command line.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Parser, ValueEnum};

use crate::case::{Case, ROWS, Who, Work};

/// Measures the same work over adjoin and over other libraries.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Args {
    /// Over what; everything by default
    #[arg(long, value_delimiter = ',')]
    peer: Vec<Who>,
    /// What is done; everything by default
    #[arg(long, value_delimiter = ',')]
    work: Vec<Work>,
    /// Only rows of this payload
    #[arg(long, value_delimiter = ',', value_name = "BYTES")]
    size: Vec<usize>,
    /// Only rows with so many calls in flight
    #[arg(long, value_name = "N")]
    inflight: Option<usize>,
    /// How often each line is measured
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// For how long each line is measured
    #[arg(long, value_name = "S", default_value_t = 0.25)]
    secs: f64,
    /// With the allocator as the system has set it
    #[arg(long)]
    pub(crate) trim: bool,
    /// Everything for a moment, each payload compared as a whole
    #[arg(long)]
    smoke: bool,
    /// This process is the server, and may put a socket there
    #[arg(long, hide = true, value_name = "DIRECTORY")]
    serve: Option<PathBuf>,
    /// The CPU that the server is to run on
    #[arg(long, hide = true, value_name = "CPU")]
    pub(crate) cpu: Option<usize>,
}

impl Args {
    /// The arguments of a server for this case, on this CPU.
    pub(crate) fn server(case: &Case, cpu: usize, directory: &Path) -> Vec<String> {
        let Case { who, work, size, inflight, whole, trim } = case;
        let mut args = vec!["--serve".to_owned(), directory.to_string_lossy().into_owned()];
        args.extend(["--peer".to_owned(), who.to_string(), "--work".to_owned(), work.to_string()]);
        args.extend(["--size".to_owned(), size.to_string(), "--inflight".to_owned(), inflight.to_string()]);
        args.extend(["--cpu".to_owned(), cpu.to_string()]);
        args.extend(whole.then(|| "--smoke".to_owned()));
        args.extend(trim.then(|| "--trim".to_owned()));
        args
    }

    /// What a server is to serve, and where.
    pub(crate) fn served(&self) -> Option<(Case, &Path)> {
        let directory = self.serve.as_deref()?;
        let (who, row) = (*self.peer.first()?, *self.rows().first()?);
        Some((Case { who, ..row }, directory))
    }

    /// The peers that were asked for.
    pub(crate) fn peers(&self) -> Vec<Who> {
        if self.peer.is_empty() { Who::value_variants().to_vec() } else { self.peer.clone() }
    }

    /// The rows that were asked for.
    pub(crate) fn rows(&self) -> Vec<Case> {
        let is_asked = |row: &&Case| {
            (self.work.is_empty() || self.work.contains(&row.work))
                && (self.size.is_empty() || self.size.contains(&row.size))
                && self.inflight.is_none_or(|inflight| inflight == row.inflight)
        };
        ROWS.iter().filter(is_asked).map(|row| Case { whole: self.smoke, trim: self.trim, ..*row }).collect()
    }

    /// How often each line is measured.
    pub(crate) fn rounds(&self) -> usize {
        if self.smoke { 1 } else { self.rounds }
    }

    /// For how long each line is measured.
    pub(crate) fn time(&self) -> Duration {
        if self.smoke { Duration::from_millis(5) } else { Duration::from_secs_f64(self.secs) }
    }
}
