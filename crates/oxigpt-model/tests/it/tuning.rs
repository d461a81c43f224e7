//! Tuning less than all weights: adapters and layer-wise distillation.

use oxigpt_compute::{Data, Recompute, Role, Session};
use oxigpt_model::{
    AttentionKind, Distill, Initial, InitialLora, Lora, LoraTargets, Merged, ModelConfig, NamedTensors,
    TensorSource, TrainPlan, TrainShape, adapted_model, eval_plan, is_adapter, map_tensors, open_adapters,
    save_adapters,
};

use crate::support::*;

const ROWS: usize = 3;
const SEED: u64 = 4;

fn lora() -> Lora {
    Lora { rank: 2, alpha: 6.0, targets: LoraTargets::parse("c_attn,attn.c_proj,c_fc,mlp.c_proj").unwrap() }
}

fn shape(config: &ModelConfig, lora: Option<Lora>, distill: Option<Distill>) -> TrainShape {
    TrainShape {
        batch_size: ROWS,
        block_size: config.block_size,
        targets_per_step: ROWS * config.block_size,
        optimizer: ADAMW,
        eval_batch_size: ROWS,
        decode: false,
        lora,
        distill,
        recompute: Recompute::None,
    }
}

struct Run {
    session: Session,
    train: TrainPlan,
}

impl Run {
    fn new(config: &ModelConfig, shape: &TrainShape, target: &Target) -> Run {
        let (plan, train) = TrainPlan::build(config, shape).unwrap();
        let mut session = Session::new(plan, (target.backend)()).unwrap();
        let base = Initial { config, seed: SEED };
        train.parameters.upload(&mut session, &base).unwrap();
        train.teacher.upload_from(&mut session, &base).unwrap();
        if let Some(lora) = &shape.lora {
            train.adapters.upload(&mut session, &InitialLora { config, lora, seed: SEED }).unwrap();
        }
        Run { session, train }
    }

    /// A step on the same batch each time; gives what it minimises, before the update.
    fn step(&mut self, step: u64) -> f64 {
        let Run { session, train } = self;
        let (tokens, targets) = batch(train.shape.targets_per_step);
        session.upload(train.tokens, Data::U32(&tokens)).unwrap();
        session.upload(train.targets, Data::U32(&targets)).unwrap();
        train.set_rng(session, 99, step as u32, 0).unwrap();
        session.run(train.phases.first);
        session.run(train.phases.norm);
        train.set_schedule(session, 0.01, step).unwrap();
        session.run(train.phases.update);
        train.objective.iter().map(|term| term.weight * mean(&download(session, term.losses))).sum()
    }

    /// The loss on the same batch as text.
    fn loss_on_text(&mut self) -> f64 {
        let Run { session, train } = self;
        let (tokens, targets) = batch(train.shape.targets_per_step);
        session.upload(train.evaluate.tokens, Data::U32(&tokens)).unwrap();
        session.upload(train.evaluate.targets, Data::U32(&targets)).unwrap();
        session.run(train.evaluate.phase);
        mean(&download(session, train.evaluate.losses))
    }

    fn weights(&self) -> NamedTensors {
        self.train.parameters.of(&self.session).collect().unwrap()
    }

    fn adapters(&self) -> NamedTensors {
        self.train.adapters.of(&self.session).collect().unwrap()
    }
}

fn batch(len: usize) -> (Vec<u32>, Vec<u32>) {
    let token = |i: usize| ((i * i) % 37) as u32;
    ((0..len).map(token).collect(), (1..=len).map(token).collect())
}

fn bytes(run: &Run, role: Role) -> usize {
    run.session
        .plan()
        .tensors()
        .filter(|(_, tensor)| tensor.role == role)
        .map(|(_, tensor)| tensor.bytes())
        .sum()
}

#[test]
fn adapters_learn_and_the_base_stays_as_it_is() {
    let config = ModelConfig { dropout: 0.1, ..small() };
    for target in targets() {
        let mut run = Run::new(&config, &shape(&config, Some(lora()), None), &target);
        let (base, adapters) = (run.weights(), run.adapters());
        let losses: Vec<f64> = (0..30).map(|step| run.step(step)).collect();
        assert!(losses[29] < losses[0] - 0.05, "{}: {losses:?}", target.name);
        assert_eq!(run.weights(), base, "{}: bit by bit", target.name);
        for (name, adapter) in run.adapters() {
            assert_ne!(adapter, adapters[&name], "{name}");
        }
        let trained: usize =
            lora().shapes(&config).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        assert_eq!((bytes(&run, Role::Gradient), bytes(&run, Role::Moment)), (4 * trained, 8 * trained));
    }
}

/// Adapters begin as nothing at all: the first loss is the base's.
#[test]
fn adapters_begin_as_the_base() {
    let config = small();
    for target in targets() {
        let mut plain = Run::new(&config, &shape(&config, None, None), &target);
        let mut adapted = Run::new(&config, &shape(&config, Some(lora()), None), &target);
        assert_eq!(adapted.loss_on_text(), plain.loss_on_text());
        assert_eq!(adapted.step(0), plain.step(0));
    }
}

/// A base with its adapters merged in computes what both compute side by side.
#[test]
fn merged_weights_give_the_same_losses() {
    let config = small();
    for target in [REFERENCE, CPU] {
        let mut run = Run::new(&config, &shape(&config, Some(lora()), None), &target);
        for step in 0..10 {
            run.step(step);
        }
        let expected = run.loss_on_text();

        let merged = Merged {
            base: Initial { config: &config, seed: SEED },
            lora: lora(),
            adapters: run.adapters(),
            block_size: config.block_size,
        };
        let (plan, parameters, pass) = eval_plan(&config, ROWS, config.block_size, None).unwrap();
        let mut session = Session::new(plan, (target.backend)()).unwrap();
        parameters.upload(&mut session, &merged).unwrap();
        let (tokens, targets) = batch(ROWS * config.block_size);
        session.upload(pass.tokens, Data::U32(&tokens)).unwrap();
        session.upload(pass.targets, Data::U32(&targets)).unwrap();
        session.run(pass.phase);
        let found = mean(&download(&session, pass.losses));
        // Merged weights are rounded to float32 once more.
        assert!((found - expected).abs() < 1e-6 * expected, "{}: {found} for {expected}", target.name);
        assert!(
            (found - run_of_base(&config, &target)).abs() > 0.01,
            "{}: adapters do something",
            target.name
        );
    }
}

fn run_of_base(config: &ModelConfig, target: &Target) -> f64 {
    Run::new(config, &shape(config, None, None), target).loss_on_text()
}

#[test]
fn adapters_survive_their_files() {
    let (config, dir) = (small(), tempfile::tempdir().unwrap());
    let mut run = Run::new(&config, &shape(&config, Some(lora()), None), &CPU);
    run.step(0);
    assert!(!is_adapter(dir.path()));
    save_adapters(dir.path(), &config, &lora(), "gpt2", &run.train.adapters.of(&run.session)).unwrap();
    assert!(is_adapter(dir.path()));
    let (saved, tensors) = open_adapters(dir.path(), &config).unwrap();
    assert_eq!(saved, lora());
    assert_eq!(tensors.collect().unwrap(), run.adapters());
    assert_eq!(adapted_model(dir.path()).unwrap().as_deref(), Some("gpt2"));

    // peft's names, and the shapes of torch's linear layers.
    let file = map_tensors(dir.path().join("adapter_model.safetensors")).unwrap();
    let shapes: std::collections::BTreeMap<_, _> = file.shapes().into_iter().collect();
    let c = config.n_embd;
    assert_eq!(shapes["base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"], [2, c]);
    assert_eq!(shapes["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"], [3 * c, 2]);
}

#[test]
fn adapters_that_would_compute_something_else_are_refused() {
    let (config, dir) = (small(), tempfile::tempdir().unwrap());
    let run = Run::new(&config, &shape(&config, Some(lora()), None), &CPU);
    save_adapters(dir.path(), &config, &lora(), "gpt2", &run.train.adapters.of(&run.session)).unwrap();
    let path = dir.path().join("adapter_config.json");
    let saved = fs_err::read_to_string(&path).unwrap();
    for (from, to, message) in [
        ("\"LORA\"", "\"IA3\"", "`peft_type` is \"IA3\", but only \"LORA\" is supported"),
        ("\"none\"", "\"all\"", "`bias` is \"all\", which is not supported"),
        ("\"r\": 2", "\"use_dora\": true, \"r\": 2", "`use_dora` is true, which is not supported"),
        ("\"mlp.c_fc\"", "\"lm_head\"", "no linear layer of a block is called `lm_head`"),
        ("\"r\": 2", "\"r\": 0", "lora_rank is 0, but must be between 1 and n_embd"),
        ("\"r\": 2", "\"r\": 3", "`h.0.attn.c_attn.lora_A.weight`"),
    ] {
        assert!(saved.contains(from), "{from} in {saved}");
        fs_err::write(&path, saved.replace(from, to)).unwrap();
        let error = open_adapters(dir.path(), &config).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    fs_err::write(&path, &saved[..saved.len() / 2]).unwrap();
    let error = open_adapters(dir.path(), &config).unwrap_err();
    assert!(error.to_string().contains("adapter_config.json: EOF while parsing"), "{error}");
    assert!(error.hint().unwrap().starts_with("adapters are read as peft saves"));
    // Those of a smaller model.
    fs_err::write(&path, &saved).unwrap();
    let other = ModelConfig { n_layer: config.n_layer - 1, ..config };
    let error = open_adapters(dir.path(), &other).unwrap_err().to_string();
    assert!(error.contains("lora_") && error.contains("adapter_model.safetensors"), "{error}");
}

#[test]
fn impossible_adapters_have_no_plan() {
    let config = small();
    let refused = |rank| {
        let shape = shape(&config, Some(Lora { rank, ..lora() }), None);
        TrainPlan::build(&config, &shape).unwrap_err().to_string()
    };
    assert!(refused(0).starts_with("lora_rank is 0,"));
    assert!(refused(config.n_embd + 1).starts_with(&format!("lora_rank is {},", config.n_embd + 1)));
}

/// A student with its teacher's kind of attention has nothing to learn: not even roundings differ.
#[test]
fn a_student_that_is_its_teacher_begins_at_zero() {
    let distill = Some(Distill { teacher: AttentionKind::Softmax, mix: 0.0 });
    for target in targets() {
        for lora in [None, Some(lora())] {
            let config = small();
            let mut run = Run::new(&config, &shape(&config, lora, distill), &target);
            assert_eq!(run.train.objective.len(), config.n_layer);
            assert_eq!(
                run.train.teacher.is_empty(),
                lora.is_some(),
                "with adapters, student and teacher share all"
            );
            assert_eq!(run.step(0), 0.0, "{}", target.name);
        }
    }
}

/// A student whose attention was disturbed finds back to its teacher; nothing else of it changes.
#[test]
fn a_student_learns_what_its_teacher_does() {
    let config = small();
    let distill = Some(Distill { teacher: AttentionKind::Softmax, mix: 0.0 });
    for target in [REFERENCE, CPU] {
        let mut run = Run::new(&config, &shape(&config, None, distill), &target);
        let other = Initial { config: &config, seed: SEED + 1 };
        for name in ["h.0.attn.c_attn.weight", "h.1.attn.c_proj.weight"] {
            let id = run.train.parameters.id(name).unwrap();
            run.session.upload(id, Data::F32(&other.read(name).unwrap())).unwrap();
        }
        let before = run.weights();
        let losses: Vec<f64> = (0..40).map(|step| run.step(step)).collect();
        assert!(losses[0] > 0.0 && losses[39] < 0.3 * losses[0], "{}: {losses:?}", target.name);
        for (name, tensor) in run.weights() {
            let is_trained = name.contains(".attn.c_");
            assert_eq!(tensor != before[&name], is_trained, "{name}");
        }
    }
}

/// Every other kind of attention learns from softmax, alone or with adapters.
#[test]
fn students_of_other_kinds_learn() {
    let distill = Some(Distill { teacher: AttentionKind::Softmax, mix: 0.0 });
    for kind in ["gaussian", "gaussian-poly-3", "pointwise-gelu"] {
        let config = ModelConfig { attention: attention(kind), ..small() };
        for lora in [None, Some(lora())] {
            let mut run = Run::new(&config, &shape(&config, lora, distill), &CPU);
            let losses: Vec<f64> = (0..40).map(|step| run.step(step)).collect();
            assert!(losses[0] > 0.0 && losses[39] < 0.8 * losses[0], "{kind}, {lora:?}: {losses:?}");
        }
    }
}

/// The share of the text in what is minimised.
#[test]
fn distillation_mixes_with_the_loss_on_the_text() {
    let config = small();
    let mixed = Some(Distill { teacher: AttentionKind::Softmax, mix: 0.25 });
    for target in targets() {
        let mut run = Run::new(&config, &shape(&config, None, mixed), &target);
        let text = run.loss_on_text();
        // The squared error is zero at first.
        assert!((run.step(0) - 0.25 * text).abs() < 1e-6, "{}", target.name);
        assert!((1..20).map(|step| run.step(step)).last().unwrap() < 0.25 * text - 0.01, "{}", target.name);
    }
}
