//! Charts as plain marks in a box, so that SVG and PDF draw the same.

use crate::domain::time::Timestamp;

/// Where a text stands against its point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Anchor {
    /// It begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

/// One thing that is drawn. Points are 1/72 inch, from the upper left corner.
#[derive(Clone, PartialEq, Debug)]
pub enum Mark {
    /// A filled box; `shade` is 0 (paper) to 1 (full colour).
    Box {
        /// Left, top, width, height.
        at: [f32; 4],
        /// How dark.
        shade: f32,
    },
    /// A line through points.
    Line {
        /// The points.
        points: Vec<(f32, f32)>,
        /// Whether it is data; else it is an axis.
        data: bool,
    },
    /// A text.
    Text {
        /// Where its baseline stands.
        at: (f32, f32),
        /// Which part of it.
        anchor: Anchor,
        /// The text.
        text: String,
    },
}

/// A chart.
#[derive(Clone, PartialEq, Debug)]
pub struct Drawing {
    /// What it shows, for those who cannot see it.
    pub title: String,
    /// Its width and height.
    pub size: (f32, f32),
    /// What is drawn, in order.
    pub marks: Vec<Mark>,
}

/// The size of the text in charts.
pub const TEXT_SIZE: f32 = 8.0;
/// The width of every chart: it fits A4 between margins of 20 mm.
const WIDTH: f32 = 480.0;
const LEFT: f32 = 60.0;
const TOP: f32 = 10.0;
/// The most points that a line chart draws; of more, the smallest and greatest of each stretch.
const MAX_DRAWN: usize = 1_000;

/// Bars side by side, for counts by hour or by day.
pub fn columns(title: &str, counts: &[(String, u64)]) -> Drawing {
    const HEIGHT: f32 = 120.0;
    let (width, floor) = (WIDTH - LEFT - 10.0, TOP + HEIGHT);
    let most = counts.iter().map(|it| it.1).max().unwrap_or(0).max(1);
    let step = width / f(counts.len().max(1));
    let mut marks = axis(LEFT, TOP, width, HEIGHT);
    marks.push(text((LEFT - 4.0, TOP + TEXT_SIZE), Anchor::End, most.to_string()));
    marks.push(text((LEFT - 4.0, floor), Anchor::End, "0".into()));
    // As many labels as there is room for.
    let every = counts.len().div_ceil(8).max(1);
    for (n, (label, count)) in counts.iter().enumerate() {
        let (left, height) = (LEFT + step * f(n), HEIGHT * share(*count, most));
        if *count > 0 {
            marks.push(Mark::Box { at: [left + step * 0.1, floor - height, step * 0.8, height], shade: 1.0 });
        }
        if n.is_multiple_of(every) {
            marks.push(text((left + step / 2.0, floor + TEXT_SIZE + 3.0), Anchor::Middle, label.clone()));
        }
    }
    Drawing { title: title.to_owned(), size: (WIDTH, floor + TEXT_SIZE + 8.0), marks }
}

/// Bars one below the other, for counts by name.
pub fn bars(title: &str, counts: &[(String, u64)]) -> Drawing {
    const ROW: f32 = 14.0;
    const NAMES: f32 = 140.0;
    let most = counts.iter().map(|it| it.1).max().unwrap_or(0).max(1);
    let width = WIDTH - NAMES - 60.0;
    let mut marks = Vec::new();
    for (n, (name, count)) in counts.iter().enumerate() {
        let top = TOP + ROW * f(n);
        let length = width * share(*count, most);
        marks.push(text((NAMES - 4.0, top + 9.0), Anchor::End, cut(name, 26)));
        marks.push(Mark::Box { at: [NAMES, top + 1.0, length, ROW - 4.0], shade: 1.0 });
        marks.push(text((NAMES + length + 4.0, top + 9.0), Anchor::Start, count.to_string()));
    }
    Drawing { title: title.to_owned(), size: (WIDTH, TOP + ROW * f(counts.len()) + 4.0), marks }
}

/// Counts by row and column as shades, for weekdays and hours.
pub fn heat(title: &str, rows: &[&str], columns: &[String], counts: &[Vec<u64>]) -> Drawing {
    const ROW: f32 = 14.0;
    let most = counts.iter().flatten().copied().max().unwrap_or(0).max(1);
    let step = (WIDTH - LEFT - 10.0) / f(columns.len().max(1));
    let mut marks = Vec::new();
    for (n, (name, line)) in rows.iter().zip(counts).enumerate() {
        let top = TOP + ROW * f(n);
        marks.push(text((LEFT - 4.0, top + 10.0), Anchor::End, (*name).to_owned()));
        for (m, count) in line.iter().enumerate() {
            // What is not nothing can be seen.
            let shade = if *count == 0 { 0.04 } else { 0.15 + 0.85 * share(*count, most) };
            marks.push(Mark::Box { at: [LEFT + step * f(m), top, step - 1.0, ROW - 1.0], shade });
        }
    }
    let floor = TOP + ROW * f(rows.len());
    for (m, name) in columns.iter().enumerate().filter(|(m, _)| m % 3 == 0) {
        marks.push(text((LEFT + step * (f(m) + 0.5), floor + TEXT_SIZE + 2.0), Anchor::Middle, name.clone()));
    }
    let most = format!("darkest: {most}");
    marks.push(text((WIDTH - 10.0, floor + 2.0 * TEXT_SIZE + 6.0), Anchor::End, most));
    Drawing { title: title.to_owned(), size: (WIDTH, floor + 2.0 * TEXT_SIZE + 10.0), marks }
}

/// A value along time, each held until the next.
pub fn line(title: &str, points: &[(Timestamp, f64)]) -> Drawing {
    const HEIGHT: f32 = 160.0;
    let (width, floor) = (WIDTH - LEFT - 10.0, TOP + HEIGHT);
    let mut marks = axis(LEFT, TOP, width, HEIGHT);
    let size = (WIDTH, floor + TEXT_SIZE + 8.0);
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        marks.push(text((LEFT + width / 2.0, TOP + HEIGHT / 2.0), Anchor::Middle, "no numbers".into()));
        return Drawing { title: title.to_owned(), size, marks };
    };
    let low = points.iter().map(|it| it.1).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|it| it.1).fold(f64::NEG_INFINITY, f64::max);
    let span = ((last.0.0 - first.0.0) as f64).max(1.0);
    #[expect(clippy::cast_possible_truncation, reason = "places on paper")]
    let across = |time: Timestamp| LEFT + width * ((time.0 - first.0.0) as f64 / span) as f32;
    #[expect(clippy::cast_possible_truncation, reason = "places on paper")]
    let up = |value: f64| {
        let part = if high > low { (value - low) / (high - low) } else { 0.5 };
        floor - HEIGHT * part as f32
    };
    let mut drawn: Vec<(f32, f32)> = Vec::new();
    for (time, value) in thinned(points) {
        if let Some(before) = drawn.last().copied() {
            drawn.push((across(time), before.1));
        }
        drawn.push((across(time), up(value)));
    }
    if drawn.len() == 1 {
        drawn.push((LEFT + width, drawn[0].1));
    }
    marks.push(Mark::Line { points: drawn, data: true });
    marks.push(text((LEFT - 4.0, TOP + TEXT_SIZE), Anchor::End, number(high)));
    if high > low {
        marks.push(text((LEFT - 4.0, floor), Anchor::End, number(low)));
    }
    for (time, anchor, at) in [(first.0, Anchor::Start, LEFT), (last.0, Anchor::End, LEFT + width)] {
        let day = time.to_utc().format("%Y-%m-%d").to_string();
        marks.push(text((at, floor + TEXT_SIZE + 3.0), anchor, day));
    }
    Drawing { title: title.to_owned(), size, marks }
}

/// Few enough points to draw, none of the extremes left out.
fn thinned(points: &[(Timestamp, f64)]) -> Vec<(Timestamp, f64)> {
    if points.len() <= MAX_DRAWN {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(MAX_DRAWN / 2);
    let mut out = Vec::new();
    for part in points.chunks(stretch) {
        let by = |a: &&(Timestamp, f64), b: &&(Timestamp, f64)| a.1.total_cmp(&b.1);
        let mut two: Vec<_> = part.iter().min_by(by).into_iter().chain(part.iter().max_by(by)).copied().collect();
        two.sort_by_key(|it| it.0);
        out.extend(two);
    }
    out.extend(points.last());
    out
}

fn axis(left: f32, top: f32, width: f32, height: f32) -> Vec<Mark> {
    vec![Mark::Line { points: vec![(left, top), (left, top + height), (left + width, top + height)], data: false }]
}

fn text(at: (f32, f32), anchor: Anchor, text: String) -> Mark {
    Mark::Text { at, anchor, text }
}

/// A text cut to some characters.
pub fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

fn number(value: f64) -> String {
    if value.abs() >= 1e7 || (value != 0.0 && value.abs() < 1e-3) {
        format!("{value:.3e}")
    } else {
        format!("{:.6}", value).trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

#[expect(clippy::cast_precision_loss, reason = "places on paper")]
fn f(number: usize) -> f32 {
    number as f32
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "places on paper")]
fn share(count: u64, most: u64) -> f32 {
    (count as f64 / most as f64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(drawing: &Drawing) {
        let (width, height) = drawing.size;
        let fits = |(x, y): (f32, f32)| (0.0..=width).contains(&x) && (0.0..=height).contains(&y);
        for mark in &drawing.marks {
            match mark {
                Mark::Box { at: [x, y, w, h], .. } => assert!(fits((*x, *y)) && fits((x + w, y + h)), "{mark:?}"),
                Mark::Line { points, .. } => assert!(points.iter().all(|it| fits(*it)), "{mark:?}"),
                Mark::Text { at, .. } => assert!(fits(*at), "{mark:?}"),
            }
        }
    }

    #[test]
    fn everything_is_drawn_inside_the_box() {
        for count in [0, 1, 7, 24, 366] {
            let counts: Vec<_> = (0..count).map(|n| (n.to_string(), n * n)).collect();
            inside(&columns("", &counts));
            inside(&bars("", &counts));
        }
        inside(&heat("", &["Mon", "Tue"], &["00".into(), "01".into()], &[vec![0, 5], vec![1, 0]]));
        for points in [0, 1, 2, 5_000] {
            let points: Vec<_> =
                (0..points).map(|n| (Timestamp(n * 1_000_000), f64::from(n as i32 % 13) - 6.0)).collect();
            inside(&line("", &points));
        }
    }

    #[test]
    fn a_long_line_keeps_its_extremes() {
        let mut points: Vec<_> = (0..50_000).map(|n| (Timestamp(n), 1.0)).collect();
        (points[12_345].1, points[40_001].1) = (9.0, -9.0);
        let drawn = thinned(&points);
        assert!(drawn.len() < 2_100 && drawn.contains(&points[12_345]) && drawn.contains(&points[40_001]));
    }
}
