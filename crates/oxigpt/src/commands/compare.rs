//! `oxigpt compare`: what runs have come to, side by side, and what differs between their settings.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use fs_err as fs;
use oxigpt_train::settings::KEYS;
use oxigpt_train::{EvalPoint, History, durable};
use serde_json::{Value, json};

use crate::cli::{By, CompareArgs};
use crate::hint::CliError;
use crate::plot::{self, Curve};
use crate::report::{self, thousands};

/// Rows of the table of losses at most.
const ROWS: usize = 25;

/// Keys that name a run, and do not shape it.
const NAMES: [&str; 1] = ["out_dir"];

/// What else can differ, in `run.json`.
const FACTS: [(&str, &str); 3] =
    [("version", "/version"), ("processor", "/machine/processor"), ("data", "/data/hash")];

/// Runs that are compared.
struct Comparison {
    runs: Vec<History>,
    /// What each is called: the name of its directory, where that tells them apart.
    names: Vec<String>,
    by: By,
}

/// Reads the runs, draws them where that is asked for, and prints what there is to see.
pub(crate) fn run(args: &CompareArgs) -> Result<()> {
    let picture =
        args.out.as_deref().map(|path| Ok::<_, CliError>((path, picture_kind(path)?))).transpose()?;
    let comparison = Comparison::read(args)?;
    if let Some((path, kind)) = picture {
        let axis = comparison.axis();
        durable::replace(path, &plot::draw(kind, &axis, &comparison.curves())?)?;
    }
    let told = if args.json { format!("{}\n", comparison.json()) } else { comparison.tables() };
    Ok(io::stdout().write_all(told.as_bytes())?)
}

/// The format that the name of a picture asks for.
fn picture_kind(path: &Path) -> Result<plot::Format, CliError> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("svg") => Ok(plot::Format::Svg),
        Some("png") => Ok(plot::Format::Png),
        _ => Err(CliError::usage(
            format!("{} is no name of a picture that can be drawn", path.display()),
            "end it in .svg or .png",
        )),
    }
}

impl Comparison {
    fn read(args: &CompareArgs) -> Result<Comparison> {
        refuse_repeated(&args.runs)?;
        let runs = args.runs.iter().map(|dir| History::read(dir)).collect::<Result<Vec<_>, _>>()?;
        for run in &runs {
            if run.bad_lines > 0 {
                let (lines, dir) = (run.bad_lines, run.dir.display());
                report::warning(&format!("{dir}/metrics.jsonl: damaged lines are left out ({lines})"));
            }
            if run.evals.is_empty() {
                report::warning(&format!("{} has no evaluation yet", run.dir.display()));
            }
        }
        if runs.iter().all(|run| run.evals.is_empty() && run.train.is_empty()) {
            return Err(CliError::failure(
                "there is nothing to compare: no loss is recorded",
                "wait for the first evaluation; a run records its losses in metrics.jsonl",
            )
            .into());
        }
        let same_steps = runs.iter().all(|run| run.tokens_per_step() == runs[0].tokens_per_step());
        let by = args.by.unwrap_or(if same_steps { By::Steps } else { By::Tokens });
        Ok(Comparison { names: names(&args.runs), runs, by })
    }

    /// Where a run stands on the axis after so many steps.
    fn place(&self, run: &History, step: u64) -> u64 {
        match self.by {
            By::Steps => step,
            By::Tokens => step * run.tokens_per_step(),
        }
    }

    fn axis(&self) -> String {
        match self.by {
            By::Steps => "steps".into(),
            By::Tokens => "tokens".into(),
        }
    }

    /// Settings and facts that are not the same in all runs, with the value of each run.
    fn differences(&self) -> Vec<(&'static str, Vec<String>)> {
        let settings = KEYS.iter().map(|key| key.name).filter(|key| !NAMES.contains(key)).map(|key| {
            let values = self.runs.iter().map(|run| run.settings.text_of(key).unwrap_or_default());
            (key, values.collect())
        });
        let facts = FACTS.iter().map(|&(name, pointer)| {
            let fact = |run: &History| run.facts.pointer(pointer).and_then(Value::as_str).map(shortened);
            (name, self.runs.iter().map(|run| fact(run).unwrap_or_else(|| "-".into())).collect())
        });
        let differs = |(_, values): &(_, Vec<String>)| values.iter().any(|value| *value != values[0]);
        settings.chain(facts).filter(differs).collect()
    }

    /// Validation losses by place: those of each run, where it has one.
    fn losses(&self) -> BTreeMap<u64, Vec<Option<f64>>> {
        let mut rows = BTreeMap::new();
        for (i, run) in self.runs.iter().enumerate() {
            for point in &run.evals {
                let row =
                    rows.entry(self.place(run, point.step)).or_insert_with(|| vec![None; self.runs.len()]);
                row[i] = Some(point.val_loss);
            }
        }
        rows
    }

    fn curves(&self) -> Vec<Curve> {
        let curve = |(run, name): (&History, &String)| Curve {
            name: name.clone(),
            // What a distillation minimises is no loss on text.
            faint: if run.settings.init_from.starts_with("layerwise:") {
                Vec::new()
            } else {
                run.train.iter().map(|point| (self.place(run, point.step) as f64, point.loss)).collect()
            },
            bold: run
                .evals
                .iter()
                .map(|point| (self.place(run, point.step) as f64, point.val_loss))
                .collect(),
        };
        self.runs.iter().zip(&self.names).map(curve).collect()
    }

    fn json(&self) -> Value {
        let run = |(run, name): (&History, &String)| {
            let point = |point: &EvalPoint| {
                json!({
                    "step": point.step,
                    "tokens": point.step * run.tokens_per_step(),
                    "val_loss": point.val_loss,
                    "train_loss": point.train_loss,
                })
            };
            json!({
                "name": name,
                "dir": run.dir,
                "steps": run.steps(),
                "tokens": run.steps() * run.tokens_per_step(),
                "best": run.best().as_ref().map(point),
                "final": run.evals.last().map(point),
                "tokens_per_s": run.tokens_per_s(),
                "evals": run.evals.iter().map(point).collect::<Vec<_>>(),
                "train": run.train.iter().map(|point| json!([point.step, point.loss])).collect::<Vec<_>>(),
                "damaged_lines": run.bad_lines,
            })
        };
        json!({
            "runs": self.runs.iter().zip(&self.names).map(run).collect::<Vec<_>>(),
            "differences": self.differences().into_iter().collect::<BTreeMap<_, _>>(),
        })
    }

    fn tables(&self) -> String {
        let head = |first: &str| [&[first.to_owned()], &self.names[..]].concat();
        let mut summary = vec![head("")];
        let mut row = |label: &str, value: &dyn Fn(&History) -> Option<String>| {
            let values = self.runs.iter().map(|run| value(run).unwrap_or_else(|| "-".into()));
            summary.push([label.to_owned()].into_iter().chain(values).collect());
        };
        let last = |run: &History| run.evals.last().copied();
        row("steps", &|run| Some(thousands(run.steps())));
        row("tokens", &|run| Some(thousands(run.steps() * run.tokens_per_step())));
        row("best validation loss", &|run| run.best().map(|point| format!("{:.4}", point.val_loss)));
        row("  after step", &|run| run.best().map(|point| thousands(point.step)));
        row("final validation loss", &|run| last(run).map(|point| format!("{:.4}", point.val_loss)));
        row("final training loss", &|run| last(run).map(|point| format!("{:.4}", point.train_loss)));
        row("tokens/s", &|run| run.tokens_per_s().map(|speed| thousands(speed as u64)));

        let mut tables = vec![columns(&summary)];
        let differences = self.differences();
        if differences.is_empty() {
            tables.push("no setting differs\n".into());
        } else {
            let rows = differences.into_iter().map(|(key, values)| [vec![key.to_owned()], values].concat());
            tables.push(columns(&[vec![head("what differs")], rows.collect()].concat()));
        }
        let losses = thinned(self.losses());
        if !losses.is_empty() {
            let rows = losses.into_iter().map(|(place, losses)| {
                let losses =
                    losses.into_iter().map(|loss| loss.map_or("-".into(), |loss| format!("{loss:.4}")));
                [thousands(place)].into_iter().chain(losses).collect()
            });
            let title = format!("validation loss by {}", self.axis());
            tables.push(columns(&[vec![head(&title)], rows.collect()].concat()));
        }
        tables.join("\n")
    }
}

/// Hashes need only their beginnings to be told apart.
fn shortened(fact: &str) -> String {
    let is_hash = fact.len() == 64 && fact.bytes().all(|byte| byte.is_ascii_hexdigit());
    fact[..if is_hash { 12 } else { fact.len() }].to_owned()
}

/// A run beside itself shows nothing, and is a slip of the pen.
fn refuse_repeated(dirs: &[PathBuf]) -> Result<(), CliError> {
    let mut seen = BTreeSet::new();
    let is_new = |dir: &&PathBuf| !seen.insert(fs::canonicalize(dir).unwrap_or_else(|_| (*dir).clone()));
    match dirs.iter().find(is_new) {
        Some(dir) => Err(CliError::usage(format!("{} is named twice", dir.display()), "name each run once")),
        None => Ok(()),
    }
}

/// The last parts of the paths, where they tell the runs apart; else the paths.
fn names(dirs: &[PathBuf]) -> Vec<String> {
    let last =
        |dir: &PathBuf| dir.file_name().map_or(dir.display().to_string(), |name| name.display().to_string());
    let short: Vec<_> = dirs.iter().map(last).collect();
    let distinct = short.iter().collect::<BTreeSet<_>>().len();
    if distinct == dirs.len() { short } else { dirs.iter().map(|dir| dir.display().to_string()).collect() }
}

/// Of too many rows, those that the most runs share, spread evenly; the first and the last stay.
fn thinned(rows: BTreeMap<u64, Vec<Option<f64>>>) -> Vec<(u64, Vec<Option<f64>>)> {
    let mut rows: Vec<_> = rows.into_iter().collect();
    if rows.len() > ROWS {
        let known = |row: &[Option<f64>]| row.iter().flatten().count();
        let most = rows.iter().map(|(_, row)| known(row)).max().unwrap_or(0);
        let end = rows.len() - 1;
        rows = rows
            .into_iter()
            .enumerate()
            .filter(|(i, (_, row))| [0, end].contains(i) || known(row) == most)
            .map(|(_, row)| row)
            .collect();
    }
    let gaps = rows.len().div_ceil(ROWS).max(1);
    let end = rows.len().saturating_sub(1);
    rows.into_iter()
        .enumerate()
        .filter(|(i, _)| i.is_multiple_of(gaps) || *i == end)
        .map(|(_, row)| row)
        .collect()
}

/// A table whose first column is flush left, and all others right.
fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(i, (cell, &width))| match i {
            0 => format!("{cell:width$}"),
            _ => format!("  {cell:>width$}"),
        });
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}
