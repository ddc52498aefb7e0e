//! A drawing: for each figure that is compared, one bar a contestant, each figure on a scale of its own from zero.

use std::fmt::Write as _;

use crate::contestant::Contestant;
use crate::figure::{Figure, Figures};

/// What is drawn: where less is better, so that a reader need not turn any of them around.
const DRAWN: [Figure; 8] = [
    Figure::Http1Cpu,
    Figure::Http2Cpu,
    Figure::GrpcCpu,
    Figure::LatencyP50,
    Figure::LatencyP99,
    Figure::BulkCpu,
    Figure::ConnectionCpu,
    Figure::RssIdleHttp,
];

const WIDTH: u32 = 760;
const MARGIN: u32 = 20;
/// Room for the names.
const NAMES: u32 = 160;
/// Room for the numbers behind the bars.
const NUMBERS: u32 = 90;
const BAR: u32 = 16;
const LINE: u32 = 22;
const GAP: u32 = 34;

/// Draws them, with a line of text below.
pub(super) fn draw(figures: &Figures, footer: &str) -> String {
    let (mut body, mut y) = (String::new(), MARGIN + 26);
    for figure in DRAWN {
        let value = |contestant| Some((contestant, figures.median(figure, contestant)?));
        let bars: Vec<_> = Contestant::ALL.into_iter().filter_map(value).collect();
        let most = bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        if most <= 0.0 {
            continue;
        }
        text(&mut body, MARGIN, y, "title", &format!("{} ({})", figure.title(), figure.unit()));
        y += 8;
        for (contestant, value) in bars {
            bar(&mut body, y, contestant, value, value / most);
            y += LINE;
        }
        y += GAP;
    }
    let height = y + MARGIN;
    text(&mut body, MARGIN, y, "footer", footer);
    // Colours that can be told apart in either scheme of a page, and a background of its own.
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"Weft beside its peers; less is better\">\n<style>text{{font:13px system-ui,sans-serif;\
         fill:#24292f}}.title{{font-weight:600}}.footer{{fill:#57606a;font-size:11px}}.other{{fill:#8c959f}}\
         .bare{{fill:#d0d7de}}.weft{{fill:#1f6feb}}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"{MARGIN}\" class=\"footer\">Less is better. Each figure has a scale of its own.</text>\n\
         {body}</svg>\n"
    )
}

fn bar(out: &mut String, y: u32, contestant: Contestant, value: f64, share: f64) {
    let class = match contestant {
        Contestant::Weft => "weft",
        bare if bare.is_bare() => "bare",
        _ => "other",
    };
    let room = f64::from(WIDTH - 2 * MARGIN - NAMES - NUMBERS);
    let (x, width) = (MARGIN + NAMES, (room * share).max(1.0));
    text(out, MARGIN, y + 13, "name", contestant.title());
    // Writing to a text cannot fail.
    writeln!(out, "<rect x=\"{x}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\" class=\"{class}\"/>")
        .unwrap_or_default();
    let number = if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") };
    let behind = f64::from(x) + width + 6.0;
    writeln!(out, "<text x=\"{behind:.1}\" y=\"{}\">{number}</text>", y + 13).unwrap_or_default();
}

fn text(out: &mut String, x: u32, y: u32, class: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(out, "<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{words}</text>").unwrap_or_default();
}
