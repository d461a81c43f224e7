//! A run that goes well: what it learns, tells and leaves behind.

use oxigpt_train::{Event, Outcome};

use crate::support::*;

#[test]
fn a_run_learns_tells_and_leaves_everything_behind() {
    let place = Place::new();
    let mut settings = place.settings("run");
    (settings.max_iters, settings.dropout, settings.sample_interval) = (120, 0.0, 60);
    (settings.eval_interval, settings.log_interval) = (50, 10);
    let (outcome, events) = run(settings).unwrap();

    let losses: Vec<f64> =
        events.iter().filter_map(|e| if let Event::Train(t) = e { Some(t.loss) } else { None }).collect();
    assert_eq!(losses.len(), 120);
    let Some(Event::Started(started)) = events.first() else { panic!("{events:?}") };
    assert!((losses[0] - started.initial_loss).abs() < 0.1, "{} {}", losses[0], started.initial_loss);
    assert!(losses[119] < 0.6 * losses[0], "{losses:?}");
    let evals: Vec<u64> =
        events.iter().filter_map(|e| if let Event::Eval(e) = e { Some(e.step) } else { None }).collect();
    assert_eq!(evals, [0, 50, 100, 120]);
    assert!(matches!(outcome, Outcome::Finished(_)));
    assert_eq!(summary(&outcome).step, 120);
    assert_eq!(place.checkpoints("run"), ["step-00000100", "step-00000120"]);
    assert_eq!(
        names(&place.path("run")),
        ["best", "checkpoints", "config.toml", "latest", "log.txt", "metrics.jsonl", "run.json"]
    );
    assert_eq!(
        names(&place.checkpoint("run", 120)),
        [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "optimizer.safetensors",
            "state.json",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
}
