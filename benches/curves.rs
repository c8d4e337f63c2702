//! How cost grows: with the calls in flight, with open streams, with guests that call one host, and with the payload.
//! Measured, and drawn into `docs/curves/`.
//!
//! ```text
//! cargo bench --bench curves -- [--secs S]
//! ```
//!
//! The points come from `cargo bench --bench links`, but for the guests: cells that each call their host, one call in
//! flight, all at once. Guests and host share the CPUs that there are.
//!
//! Under `cargo test`, which passes no `--bench`, a curve of guests is measured and drawn for a moment, to see that it works.

#[cfg(target_os = "linux")]
#[path = "curves/draw.rs"]
mod draw;
#[cfg(target_os = "linux")]
#[path = "curves/guests.rs"]
mod guests;
#[cfg(target_os = "linux")]
#[path = "curves/links.rs"]
mod links;

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    use std::path::{Path, PathBuf};

    use draw::Figure;
    use links::{Axis, measure};

    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "--guest") {
        return guests::be_one();
    }
    if !args.iter().any(|arg| arg == "--bench") {
        let folder = tempfile::TempDir::new()?;
        let curve = guests::measure(&[1, 2], 0.02)?;
        return Figure::guests(vec![curve]).draw(folder.path());
    }
    let secs = args.iter().position(|arg| arg == "--secs").and_then(|at| args.get(at + 1));
    let secs: f64 = secs.map_or(Ok(0.5), |secs| secs.parse())?;
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/curves");
    std::fs::create_dir_all(&folder)?;
    let draw = |figure: Figure| figure.draw(Path::new(&folder));

    let all = ["shm", "uds", "tcp", "local"];
    let inflight = Axis::InFlight(&[1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
    draw(Figure::in_flight(measure(&all, "unary", inflight, secs)?))?;
    let streams = Axis::InFlight(&[1, 3, 10, 30, 100, 300, 1000]);
    draw(Figure::streams(measure(&all, "stream", streams, secs)?))?;
    let sizes: Vec<u32> = (5..=26).step_by(1).map(|power| 1 << power).collect();
    draw(Figure::payload(measure(&all, "unary", Axis::Size(&sizes), secs)?))?;
    draw(Figure::guests(vec![guests::measure(&[1, 2, 4, 8, 16, 32, 64], secs)?]))
}

#[cfg(not(target_os = "linux"))]
fn main() {}
