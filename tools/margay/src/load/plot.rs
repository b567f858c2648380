//! Latency by percentile, drawn as SVG. Both axes are logarithmic: each step to the right is ten times rarer.

use std::fmt::Write;

use hdrhistogram::Histogram;

use super::report::time;

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 50.0;

/// Points of the line for each tenfold.
const STEPS: usize = 40;

/// The picture. `title` is shown above it.
pub fn svg(title: &str, histogram: &Histogram<u64>) -> String {
    // As far to the right as there are requests to speak of.
    let decades = (histogram.len().max(10) as f64).log10().floor().clamp(1.0, 7.0);
    let (low, high) = range(histogram);
    let x = |tail: f64| LEFT + (WIDTH - LEFT - RIGHT) * -tail.log10() / decades;
    let y = |nanos: f64| {
        let share = (nanos.max(low).log10() - low.log10()) / (high.log10() - low.log10());
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"14\">{}</text>\n",
        escaped(title)
    );
    let line = |x1: f64, y1: f64, x2: f64, y2: f64| {
        format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>\n")
    };
    // Writing to a string cannot fail.
    for decade in 0..=decades as i32 {
        let at = x(10f64.powi(-decade));
        svg += &line(at, TOP, at, HEIGHT - BOTTOM);
        let below = HEIGHT - BOTTOM + 18.0;
        let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{}</text>", percentile(decade));
    }
    let mut tick = low;
    while tick <= high * 1.001 {
        svg += &line(LEFT, y(tick), WIDTH - RIGHT, y(tick));
        let (at, label) = (y(tick) + 4.0, time(tick as u64));
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{at:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 6.0);
        tick *= 10.0;
    }
    let points = (0..=decades as usize * STEPS).map(|step| {
        let tail = 10f64.powf(-(step as f64) / STEPS as f64);
        format!("{:.1},{:.1}", x(tail), y(histogram.value_at_quantile(1.0 - tail) as f64))
    });
    let points = points.collect::<Vec<_>>().join(" ");
    let _ = writeln!(svg, "<polyline points=\"{points}\" fill=\"none\" stroke=\"#1f6feb\" stroke-width=\"2\"/>");
    let (middle, bottom) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 10.0);
    let _ = writeln!(svg, "<text x=\"{middle}\" y=\"{bottom}\" text-anchor=\"middle\">percentile of requests</text>");
    svg + "</svg>\n"
}

/// Powers of ten around all values.
fn range(histogram: &Histogram<u64>) -> (f64, f64) {
    let low = 10f64.powf((histogram.min().max(1) as f64).log10().floor());
    let high = 10f64.powf((histogram.max().max(1) as f64).log10().ceil());
    (low, high.max(low * 10.0))
}

/// 0 %, 90 %, 99 %, 99.9 %…
fn percentile(decade: i32) -> String {
    match decade {
        0 => "0 %".into(),
        1 => "90 %".into(),
        2 => "99 %".into(),
        more => format!("99.{} %", "9".repeat(more as usize - 2)),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(svg: &str) -> Vec<(f64, f64)> {
        let line = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let point = |point: &str| point.split_once(',').map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).unwrap();
        line.split(' ').map(point).collect()
    }

    #[test]
    fn the_line_goes_to_the_right_and_never_down_and_stays_inside() {
        let mut histogram = Histogram::new_with_bounds(1, 600_000_000_000, 3).unwrap();
        (1..=100_000u64).for_each(|i| histogram.record(i * i / 10).unwrap());
        let svg = svg("a < b & c", &histogram);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains("a &lt; b &amp; c"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(svg.contains("99.999 %"), "five nines of a hundred thousand");
        let points = points(&svg);
        for pair in points.windows(2) {
            assert!(pair[0].0 < pair[1].0 && pair[0].1 >= pair[1].1, "{pair:?}");
        }
        let inside = |&(x, y): &(f64, f64)| (LEFT..=WIDTH).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y);
        assert!(points.iter().all(inside));
    }

    #[test]
    fn nothing_is_drawn_as_something_whole_too() {
        let svg = svg("", &Histogram::new_with_bounds(1, 1_000_000, 3).unwrap());
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
