//! Charts of the last hour, drawn as paths of an SVG: no script, no library.

use std::time::Duration;

use super::history::Sample;
use crate::contract::Timestamp;

/// So many minutes may a drawing be long; the shortest that holds all samples is taken.
const MINUTES: [u64; 4] = [5, 10, 30, 60];

/// The drawing's size in its own units; the page stretches it.
pub(crate) const WIDTH: f64 = 600.0;
pub(crate) const HEIGHT: f64 = 100.0;

/// One quantity over time.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    /// The last value.
    pub(crate) now: String,
    /// Of an SVG path.
    pub(crate) path: String,
    /// The same, closed along the bottom.
    pub(crate) area: String,
}

/// Some quantities of one unit.
#[derive(Debug)]
pub(crate) struct Chart {
    pub(crate) title: &'static str,
    /// The value at the upper edge.
    pub(crate) top: String,
    pub(crate) lines: Vec<Line>,
}

type Quantity = (&'static str, fn(&Sample) -> f64);

/// All charts of the time before a moment.
#[derive(Debug)]
pub(crate) struct Charts {
    /// So long it is.
    pub(crate) minutes: u64,
    /// None while there are too few samples.
    pub(crate) charts: Vec<Chart>,
}

impl Charts {
    /// Draws the samples of the hour before `now`.
    pub(crate) fn new(samples: &[Sample], now: Timestamp) -> Self {
        let age = samples.first().map_or(Duration::ZERO, |first| now.since(first.at));
        let minutes = MINUTES.into_iter().find(|minutes| age <= Duration::from_secs(60 * minutes)).unwrap_or(60);
        if samples.len() < 2 {
            return Self { minutes, charts: Vec::new() };
        }
        let chart = |title, quantities: &[Quantity]| Chart::new(title, samples, now, minutes, quantities);
        let charts = vec![
            chart("Images a minute", &[("labelled", |s| s.per_minute)]),
            chart("Queue", &[("queued", |s| s.queued as f64), ("in work", |s| s.in_work as f64)]),
            chart("Upload to label", &[("seconds", |s| s.delay)]),
            chart("Workers", &[("running", |s| s.running.into()), ("wanted", |s| s.desired.into())]),
        ];
        Self { minutes, charts }
    }
}

impl Chart {
    fn new(title: &'static str, samples: &[Sample], now: Timestamp, minutes: u64, quantities: &[Quantity]) -> Self {
        let values = || quantities.iter().flat_map(|(_, of)| samples.iter().map(of));
        let top = round_up(values().fold(0.0, f64::max));
        let lines = quantities.iter().map(|(name, of)| {
            let points = samples.iter().map(|sample| {
                let age = now.since(sample.at).as_secs_f64() / (60 * minutes) as f64;
                (WIDTH * (1.0 - age).max(0.0), HEIGHT * (1.0 - of(sample) / top))
            });
            let points: Vec<(f64, f64)> = points.collect();
            let path = path(&points);
            let (first, last) = (points.first().map_or(0.0, |p| p.0), points.last().map_or(0.0, |p| p.0));
            Line {
                name,
                now: samples.last().map_or_else(String::new, |sample| whole(of(sample))),
                area: format!("{path}L{last:.1} {HEIGHT}L{first:.1} {HEIGHT}Z"),
                path,
            }
        });
        Self { title, top: whole(top), lines: lines.collect() }
    }
}

fn path(points: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (n, (x, y)) in points.iter().enumerate() {
        let command = if n == 0 { 'M' } else { 'L' };
        path.push_str(&format!("{command}{x:.1} {y:.1}"));
    }
    path
}

/// The smallest of 1, 2, 5, 10, 20, 50 … that is not below `value`.
fn round_up(value: f64) -> f64 {
    let mut decade = 1.0;
    loop {
        for step in [1.0, 2.0, 5.0] {
            if decade * step >= value {
                return decade * step;
            }
        }
        decade *= 10.0;
    }
}

/// A number without a fraction, its thousands apart.
pub(crate) fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_drawn_from_its_samples() {
        let sample = |minute: i64, queued| Sample {
            at: Timestamp::from_millis(minute * 60_000),
            per_minute: 0.0,
            queued,
            in_work: 0,
            desired: 1,
            running: 1,
            timed: 0,
            seconds: 0.0,
            delay: 0.0,
        };
        let now = Timestamp::from_millis(60 * 60_000);
        assert!(Charts::new(&[sample(60, 1)], now).charts.is_empty());
        let drawn = Charts::new(&[sample(0, 0), sample(30, 1500), sample(60, 1000)], now);
        assert_eq!(drawn.minutes, 60);
        let queue = &drawn.charts[1];
        assert_eq!(queue.top, "2,000");
        assert_eq!(queue.lines[0].path, "M0.0 100.0L300.0 25.0L600.0 50.0");
        assert_eq!(queue.lines[0].area, "M0.0 100.0L300.0 25.0L600.0 50.0L600.0 100L0.0 100Z");
        assert_eq!(Charts::new(&[sample(57, 0), sample(60, 1)], now).minutes, 5);
        assert_eq!(queue.lines[0].now, "1,000");
    }

    #[test]
    fn numbers_are_read_easily() {
        let texts = [0.0, 7.4, 999.0, 1000.0, 1_234_567.0].map(whole);
        assert_eq!(texts, ["0", "7", "999", "1,000", "1,234,567"]);
        assert_eq!([0.0, 1.0, 1.5, 2.1, 99.0, 101.0].map(round_up), [1.0, 1.0, 2.0, 5.0, 100.0, 200.0]);
    }
}
