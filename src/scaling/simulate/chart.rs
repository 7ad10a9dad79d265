//! The chart: queue depth and fleet over time, as an SVG that is readable on light and dark pages.

use super::{
    Run, Sample, Scenario,
    report::{grouped, span},
};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 840.0;
const PANEL: f64 = 170.0;
const TOPS: [f64; 2] = [102.0, 318.0];
const HEIGHT: f64 = 534.0;

/// At most so many points a line: more than one a pixel and a half nobody sees.
const POINTS: usize = 480;

const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#374151}.t{font-size:15px;font-weight:600;fill:#111827}\
.h{font-weight:600}.g{stroke:#d1d5db;stroke-width:1}.l{fill:none;stroke-width:1.8;stroke-linejoin:round}\
.d{stroke-dasharray:4 3;stroke-width:1.1}.c0{stroke:#c2410c}.c1{stroke:#0369a1}.bg{fill:#fff}\
@media(prefers-color-scheme:dark){text{fill:#cbd5e1}\
.t{fill:#f1f5f9}.g{stroke:#334155}.c0{stroke:#fb923c}.c1{stroke:#38bdf8}.bg{fill:#0f172a}}";

/// What one panel shows of a sample.
type Value = fn(&Sample) -> f64;

/// Draws the runs of one scenario.
#[must_use]
pub fn chart(scenario: &Scenario, runs: &[Run]) -> String {
    let end = runs.iter().flat_map(|run| run.timeline.last()).map(|sample| sample.t_s).fold(1.0, f64::max);
    let mut svg = Svg(String::new());
    svg.put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\"><title>{title}</title>\
         <style>{STYLE}</style><rect class=\"bg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\"/>",
        title = escaped(&scenario.name)
    ));
    svg.text(LEFT, 28.0, "t", "start", &escaped(&scenario.name));
    let price = format!("An instance-hour costs {}.", scenario.worker.price_per_hour);
    svg.text(LEFT, 47.0, "", "start", &escaped(format!("{} {price}", scenario.about.trim()).trim()));
    for (index, run) in runs.iter().enumerate() {
        let x = LEFT + 390.0 * index as f64;
        svg.put(format_args!("<path class=\"l c{index}\" d=\"M{x} 66h22\"/>"));
        let about = format!(
            "{}: p95 wait {}, {} instance-minutes, cost {:.2}",
            run.policy,
            span(run.wait_s.p95),
            grouped(run.instance_minutes.round() as u64),
            run.cost
        );
        svg.text(x + 28.0, 70.0, "", "start", &about);
    }
    let depth: Value = |sample| (sample.visible + sample.in_flight) as f64;
    let desired: Value = |sample| f64::from(sample.desired);
    let in_service: Value = |sample| f64::from(sample.in_service);
    svg.panel(TOPS[0], "messages in the queue, in flight included", runs, end, false, &[(depth, "")]);
    svg.panel(
        TOPS[1],
        "workers (dashed: desired, solid: in service)",
        runs,
        end,
        true,
        &[(desired, " d"), (in_service, "")],
    );
    let step = time_step(end);
    let mut at = 0.0;
    while at <= end {
        let x = LEFT + (RIGHT - LEFT) * at / end;
        let anchor = if x > RIGHT - 20.0 { "end" } else { "middle" };
        svg.text(x, TOPS[1] + PANEL + 18.0, "", anchor, &if at == 0.0 { "0".to_owned() } else { span(at) });
        at += step;
    }
    svg.0.push_str("</svg>\n");
    svg.0
}

struct Svg(String);

impl Svg {
    fn put(&mut self, args: std::fmt::Arguments<'_>) {
        self.0.push_str(&args.to_string());
        self.0.push('\n');
    }

    fn text(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
        self.put(format_args!(
            "<text class=\"{class}\" x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn panel(&mut self, top: f64, title: &str, runs: &[Run], end: f64, stepped: bool, values: &[(Value, &str)]) {
        let samples = || runs.iter().flat_map(|run| &run.timeline);
        let most = samples().flat_map(|sample| values.iter().map(|(value, _)| value(sample))).fold(1.0, f64::max);
        let step = nice_step(most / 4.0).max(1.0);
        let ceiling = (most / step).ceil() * step;
        let y = |value: f64| top + PANEL * (1.0 - value / ceiling);
        self.text(LEFT, top - 6.0, "h", "start", title);
        let mut line = 0.0;
        while line <= ceiling + step / 2.0 {
            self.put(format_args!("<path class=\"g\" d=\"M{LEFT} {:.1}H{RIGHT}\"/>", y(line)));
            self.text(LEFT - 8.0, y(line) + 4.0, "", "end", &grouped(line as u64));
            line += step;
        }
        for (index, run) in runs.iter().enumerate() {
            for (value, class) in values {
                let points = thinned(&run.timeline, *value).into_iter();
                let points = points.map(|(t, value)| (LEFT + (RIGHT - LEFT) * t / end, y(value)));
                let path: String = match stepped {
                    true => points.enumerate().map(|(i, (x, y))| step_to(i, x, y)).collect(),
                    false => points.enumerate().map(|(i, (x, y))| line_to(i, x, y)).collect(),
                };
                self.put(format_args!("<path class=\"l c{index}{class}\" d=\"{path}\"/>"));
            }
        }
    }
}

/// A straight line to the next point.
fn line_to(index: usize, x: f64, y: f64) -> String {
    format!("{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' })
}

/// Along the last value, then straight up or down: a number of workers has no slope.
fn step_to(index: usize, x: f64, y: f64) -> String {
    if index == 0 { format!("M{x:.1} {y:.1}") } else { format!("H{x:.1}V{y:.1}") }
}

/// The peaks of as many stretches as there are points to draw.
fn thinned(timeline: &[Sample], value: Value) -> Vec<(f64, f64)> {
    let stretch = timeline.len().div_ceil(POINTS).max(1);
    let peak = |samples: &[Sample]| {
        let peak = samples.iter().max_by(|a, b| value(a).total_cmp(&value(b)))?;
        Some((samples.first()?.t_s, value(peak)))
    };
    timeline.chunks(stretch).filter_map(peak).collect()
}

/// The next of 1, 2 or 5 times a power of ten.
fn nice_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= raw).unwrap_or(power * 10.0)
}

/// A round time for about eight marks.
fn time_step(end_s: f64) -> f64 {
    let steps =
        [1.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 10_800.0, 21_600.0];
    steps
        .into_iter()
        .find(|step| end_s / step <= 9.0)
        .unwrap_or_else(|| nice_step(end_s / 8.0 / 86_400.0).max(1.0) * 86_400.0)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round() {
        assert_eq!([0.3, 1.0, 1.2, 7.0, 230.0].map(nice_step), [0.5, 1.0, 2.0, 10.0, 500.0]);
        assert_eq!([240.0, 3600.0, 86_400.0].map(time_step), [30.0, 600.0, 10_800.0]);
    }

    #[test]
    fn what_a_scenario_is_called_cannot_break_the_chart() {
        let scenario = Scenario::of("a < b & c", Vec::new());
        let drawn = chart(&scenario, &[]);
        assert!(drawn.contains("a &lt; b &amp; c") && drawn.trim_end().ends_with("</svg>"), "{drawn}");
    }

    #[test]
    fn long_timelines_are_thinned_and_keep_their_peaks() {
        let sample = |t: u32| Sample {
            t_s: f64::from(t),
            policy: crate::config::Policy::Steps,
            visible: u64::from(t == 4321),
            in_flight: 0,
            desired: 1,
            in_service: 1,
        };
        let timeline: Vec<_> = (0..10_000).map(sample).collect();
        let points = thinned(&timeline, |sample| sample.visible as f64);
        assert!(points.len() <= POINTS);
        assert_eq!(points.iter().map(|(_, value)| *value).sum::<f64>(), 1.0);
    }
}
