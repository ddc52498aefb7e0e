//! What was measured, for a terminal, for programs and for a page.

mod fleet;
mod svg;

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::claim::{CLAIMS, Verdict, judge_fleet};
use crate::contestant::Contestant;
use crate::figure::{Figure, Figures};
use crate::kernel;
use crate::plan::Plan;

/// Everything that a report says.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    plan: &'a Plan,
    figures: &'a Figures,
    date: String,
    machine: String,
    verdicts: Vec<Verdict>,
}

impl<'a> Report<'a> {
    /// Judges the figures.
    pub(crate) fn new(plan: &'a Plan, figures: &'a Figures) -> Self {
        let verdicts = CLAIMS.iter().map(|claim| claim.judge(figures)).chain(judge_fleet(figures)).collect();
        let date = jiff::Zoned::now().date().to_string();
        Self { plan, figures, date, machine: kernel::machine(), verdicts }
    }

    /// The tables, for people: medians with their spread, then what they must show.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("\n{}, {}\n", self.date, self.machine);
        let Plan { repetitions, length, .. } = self.plan;
        // Writing to a text cannot fail.
        let mut say = |line: std::fmt::Arguments<'_>| text.write_fmt(line).unwrap_or_default();
        say(format_args!("median of {repetitions} × {} s, ± half of the spread\n\n", length.as_secs()));
        if self.figures.measured().next().is_some() {
            self.pairs(&mut text);
        }
        fleet::write(&mut text, self.figures.fleets());
        let mut say = |line: std::fmt::Arguments<'_>| text.write_fmt(line).unwrap_or_default();
        say(format_args!("\n{:<72}{:>10}{:>10}\n", "what it must show (Weft)", "is", "limit"));
        for verdict in &self.verdicts {
            let value = verdict.value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
            say(format_args!("{:<72}{value:>10}{:>10.2}  {}\n", verdict.claim, verdict.limit, verdict.word()));
        }
        for missing in self.figures.missing() {
            say(format_args!("MISSING: {missing}\n"));
        }
        text
    }

    /// A line for each figure, a column for each contestant.
    fn pairs(&self, text: &mut String) {
        let mut say = |line: std::fmt::Arguments<'_>| text.write_fmt(line).unwrap_or_default();
        say(format_args!("{:<52}", ""));
        for contestant in Contestant::ALL {
            say(format_args!("{:>22}", contestant.title()));
        }
        say(format_args!("\n"));
        for figure in self.figures.measured() {
            say(format_args!("{:<52}", label(figure)));
            for contestant in Contestant::ALL {
                say(format_args!("{:>22}", self.cell(figure, contestant)));
            }
            say(format_args!("\n"));
        }
    }

    fn cell(&self, figure: Figure, contestant: Contestant) -> String {
        let Some(samples) = self.figures.samples(figure, contestant) else { return "-".to_owned() };
        let (Some(median), spread) = (samples.median(), samples.spread().unwrap_or(0.0)) else { return "-".to_owned() };
        let value = if median >= 1000.0 { format!("{median:.0}") } else { format!("{median:.2}") };
        if samples.values().len() > 1 { format!("{value} ±{:>2.0} %", spread * 50.0) } else { value }
    }

    /// Every sample, for programs.
    pub(crate) fn json(&self) -> String {
        let figures = self.figures.measured().map(|figure| {
            let of = |contestant: Contestant| {
                let samples = self.figures.samples(figure, contestant)?;
                Some(json!({
                    "contestant": contestant.title(),
                    "median": samples.median(),
                    "spread": samples.spread(),
                    "samples": samples.values(),
                }))
            };
            let all: Vec<Value> = Contestant::ALL.into_iter().filter_map(of).collect();
            json!({ "figure": figure.title(), "unit": figure.unit(), "contestants": all })
        });
        let figures: Vec<Value> = figures.collect();
        let claims = self.verdicts.iter().map(|verdict| {
            json!({
                "claim": verdict.claim,
                "value": verdict.value,
                "limit": verdict.limit,
                "verdict": verdict.word(),
            })
        });
        let claims: Vec<Value> = claims.collect();
        let report = json!({
            "date": self.date,
            "machine": self.machine,
            "repetitions": self.plan.repetitions,
            "seconds": self.plan.length.as_secs(),
            "figures": figures,
            "control_plane": fleet::json(self.figures.fleets()),
            "claims": claims,
            "missing": self.figures.missing(),
        });
        format!("{report:#}\n")
    }

    /// The figures that are compared, as bars.
    pub(crate) fn svg(&self) -> String {
        svg::draw(self.figures, &format!("{}, {}", self.date, self.machine))
    }
}

/// A figure with its unit.
fn label(figure: Figure) -> String {
    match figure.unit() {
        "" => figure.title().to_owned(),
        unit => format!("{} ({unit})", figure.title()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        let mut figures = Figures::default();
        for (contestant, value) in [(Contestant::Envoy, 200.0), (Contestant::Weft, 50.0), (Contestant::Weft, 52.0)] {
            figures.add(Figure::Http1Cpu, contestant, value);
        }
        figures.miss("bulk TCP", Contestant::Envoy.title(), &anyhow::anyhow!("it has ended"));
        figures
    }

    #[test]
    fn a_table_tells_medians_spreads_ratios_and_what_is_missing() {
        let (plan, figures) = (Plan::new(2, 3, false, &[]), figures());
        let table = Report::new(&plan, &figures).table();
        for part in ["median of 2 × 3 s", "51.00 ± 2 %", "200.00", "0.26", "met", "not measured"] {
            assert!(table.contains(part), "{part} is not in:\n{table}");
        }
        assert!(table.contains("MISSING: bulk TCP, Envoy: it has ended"), "{table}");
    }

    #[test]
    fn a_report_for_programs_holds_every_sample() {
        let (plan, figures) = (Plan::new(2, 3, false, &[]), figures());
        let report: Value = serde_json::from_str(&Report::new(&plan, &figures).json()).unwrap();
        assert_eq!(report["figures"][0]["contestants"][1]["samples"], json!([50.0, 52.0]));
        assert_eq!(report["claims"][0]["verdict"], "met");
    }

    #[test]
    fn a_drawing_is_well_formed_and_names_who_is_compared() {
        let (plan, figures) = (Plan::new(2, 3, false, &[]), figures());
        let drawing = Report::new(&plan, &figures).svg();
        assert!(drawing.starts_with("<svg ") && drawing.ends_with("</svg>\n"));
        assert!(drawing.contains(">Envoy<") && drawing.contains(">Weft<") && !drawing.contains("NaN"));
    }
}
