//! Curves as pictures.

use std::path::Path;

use plotters::{
    chart::{ChartBuilder, SeriesLabelPosition},
    prelude::{Circle, IntoDrawingArea, IntoLogRange, PathElement, SVGBackend},
    series::LineSeries,
    style::{BLACK, Color, RGBColor, WHITE},
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Points of one kind.
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A picture.
pub(crate) struct Figure {
    file: &'static str,
    title: &'static str,
    x: &'static str,
    y: &'static str,
    curves: Vec<Curve>,
}

impl Figure {
    pub(crate) fn in_flight(curves: Vec<Curve>) -> Self {
        let (file, title) = ("in-flight.svg", "Calls of 32 B");
        Figure { file, title, x: "in flight", y: "calls in a second", curves }
    }

    pub(crate) fn streams(curves: Vec<Curve>) -> Self {
        let (file, title) = ("streams.svg", "Elements of 64 B, on all streams together");
        Figure { file, title, x: "open streams", y: "elements in a second", curves }
    }

    pub(crate) fn guests(curves: Vec<Curve>) -> Self {
        let (file, title) = ("guests.svg", "Guests that call one host, with 32 B");
        Figure { file, title, x: "guests", y: "calls in a second, all together", curves }
    }

    pub(crate) fn payload(curves: Vec<Curve>) -> Self {
        let (file, title) = ("payload.svg", "Calls that echo a byte vector, one in flight");
        Figure { file, title, x: "bytes", y: "bytes in a second", curves }
    }

    /// Draws it, with both axes in powers of ten, and prints its points.
    pub(crate) fn draw(&self, folder: &Path) -> Result<(), Failure> {
        println!("{}: {} by {}", self.title, self.y, self.x);
        for Curve { name, points } in &self.curves {
            let points: Vec<_> = points.iter().map(|(x, y)| format!("{x}: {y:.0}")).collect();
            println!("  {name}  {}", points.join("  "));
        }
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let least = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::INFINITY, f64::min);
        let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max);
        let (xs, ys) = (least(|p| p.0)..most(|p| p.0) * 1.2, least(|p| p.1) / 1.5..most(|p| p.1) * 1.5);

        let path = folder.join(self.file);
        let root = SVGBackend::new(&path, (760, 460)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(xs.log_scale(), ys.log_scale())?;
        let scaled = |value: &f64| match *value {
            value if value >= 1e9 => format!("{} G", value / 1e9),
            value if value >= 1e6 => format!("{} M", value / 1e6),
            value if value >= 1e3 => format!("{} k", value / 1e3),
            value => format!("{value}"),
        };
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&scaled)
            .y_label_formatter(&scaled)
            .draw()?;
        for (curve, color) in self.curves.iter().zip(COLORS) {
            let line =
                chart.draw_series(LineSeries::new(curve.points.iter().copied(), color.stroke_width(2)))?;
            line.label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
            chart.draw_series(curve.points.iter().map(|point| Circle::new(*point, 3, color.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE)
            .border_style(BLACK)
            .draw()?;
        Ok(root.present()?)
    }
}

const COLORS: [RGBColor; 4] =
    [RGBColor(200, 60, 40), RGBColor(40, 90, 180), RGBColor(60, 140, 70), RGBColor(120, 80, 150)];
