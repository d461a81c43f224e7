//! From a request to a run that is possible: its directory, data, model, plan and memory, all checked.

use std::path::{Path, PathBuf};

use oxigpt_compute::{Plan, Precision, Session};
use oxigpt_data::tokenizer_beside;
use oxigpt_eval::tasks::hellaswag::Questions;
use oxigpt_model::{AttentionKind, Initial, InitialLora, ModelConfig, TensorTable, TrainPlan};

use crate::base::Base;
use crate::checkpoint::{self, Checkpoint};
use crate::corpus::{Corpus, open_dataset};
use crate::error::Error;
use crate::estimate::Estimate;
use crate::hellaswag;
use crate::model::{Model, ModelWeights};
use crate::resume;
use crate::run_dir::{self, RunDir};
use crate::sampler::Sampler;
use crate::settings::{Settings, Start};

/// A request that has been found to be possible.
pub(crate) struct Job {
    pub(crate) settings: Settings,
    /// Where the run goes on; a new one has no directory yet.
    pub(crate) dir: Option<RunDir>,
    pub(crate) corpus: Corpus,
    pub(crate) config: ModelConfig,
    pub(crate) origin: Origin,
    /// The items of HellaSwag, where they are asked for.
    pub(crate) questions: Option<Questions>,
    /// What the run needs beside its checkpoints.
    pub(crate) base: Option<Base>,
    pub(crate) warnings: Vec<String>,
}

/// Where the weights come from.
pub(crate) enum Origin {
    Random,
    Model(Box<Model>),
    Checkpoint(Box<Checkpoint>),
}

/// A training step that fits into the machine.
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    pub(crate) handles: TrainPlan,
    pub(crate) estimate: Estimate,
    pub(crate) sampler: Option<Sampler>,
}

impl Job {
    /// Checks everything but the plan before anything is allocated or written. The `model` is what `init_from` names,
    /// `published` the published file of HellaSwag.
    pub(crate) fn check(
        mut settings: Settings,
        model: Option<Model>,
        published: Option<&Path>,
    ) -> Result<Job, Error> {
        if !settings.eval_only {
            settings.check_trainable()?;
        }
        let root = PathBuf::from(&settings.out_dir);
        let mut warnings = Vec::new();
        let (mut dir, mut checkpoint) = (None, None);
        if settings.start() == Start::Resume {
            dir = Some(RunDir::resume(&root)?);
            settings.init_from = run_dir::origin(&root)?;
            checkpoint::clean_up(&root)?;
            checkpoint = checkpoint::open_latest(&root, &mut warnings)?;
            if checkpoint.is_none() {
                warnings.push("there is no checkpoint yet: the run begins again".into());
            }
        } else {
            run_dir::check_vacant(&root, settings.eval_only)?;
        }
        if u32::try_from(settings.max_iters).is_err() {
            return Err(Error::TooManySteps { max_iters: settings.max_iters });
        }
        let dataset = open_dataset(&settings.dataset)?;
        let (origin, known) = match (checkpoint, settings.start()) {
            (Some(checkpoint), _) => {
                resume::check(&checkpoint.state, &settings, &dataset)?;
                let known = tokenizer_beside(&checkpoint.dir)?;
                (Origin::Checkpoint(Box::new(checkpoint)), known)
            }
            (None, Start::Model(name) | Start::Layerwise(name)) => {
                let model = model.ok_or_else(|| Error::ModelNotGiven { model: name.into() })?;
                settings.check_against(&model.config, &model.name)?;
                let known = model.tokenizer_for(&dataset)?;
                warnings.extend(model.doubt_about(&dataset));
                (Origin::Model(Box::new(model)), known)
            }
            (None, _) => (Origin::Random, None),
        };
        let corpus = Corpus::new(&settings, dataset, known)?;
        let config = settings.model_config(corpus.vocab_size);
        warnings.extend(corpus.unused_vocabulary());
        let questions = hellaswag::questions(&settings, published, &corpus)?;
        let base = match &origin {
            Origin::Model(model) if settings.needs_base() => Some(Base::of(model)?),
            Origin::Checkpoint(checkpoint) => checkpoint.base.as_ref().map(|(base, _)| base.clone()),
            Origin::Random | Origin::Model(_) => None,
        };
        Ok(Job { settings, dir, corpus, config, origin, questions, base, warnings })
    }

    /// Plans a training step.
    pub(crate) fn plan(&mut self) -> Result<Planned, Error> {
        let Job { settings, corpus, config, origin, questions, warnings, .. } = self;
        let sampler = Sampler::new(settings, corpus, warnings)?;
        let scored = questions.as_ref().map(hellaswag::shape);
        let shape = settings.train_shape(origin.attention());
        let (plan, handles) = TrainPlan::build_scoring(config, &shape, scored)?;
        let plan = plan.with_precision(settings.precision());
        if plan.precision() == Precision::Bfloat16 && !settings.machine().has_bfloat16() {
            warnings.push(
                "this processor has no bfloat16 instructions: dtype = \"bfloat16\" is slower on it than \"float32\"".into(),
            );
        }
        let estimate = Estimate::of_plan(settings, config, &plan, &handles);
        settings.machine().check_memory(estimate.memory_bytes, estimate.checkpoint_buffer_bytes)?;
        Ok(Planned { plan, handles, estimate, sampler })
    }
}

impl Origin {
    /// The kind of attention of the model that the run begins with, which is the teacher in a distillation.
    fn attention(&self) -> AttentionKind {
        match self {
            Origin::Model(model) => model.config.attention,
            Origin::Checkpoint(checkpoint) => {
                checkpoint.base.as_ref().map_or(AttentionKind::Softmax, |(_, base)| base.config.attention)
            }
            Origin::Random => AttentionKind::Softmax,
        }
    }

    /// Gives the session of a training plan all its weights.
    pub(crate) fn upload_all(
        &self,
        session: &mut Session,
        plan: &TrainPlan,
        config: &ModelConfig,
        seed: u64,
    ) -> Result<(), Error> {
        let base = match self {
            Origin::Random => None,
            Origin::Model(model) => Some(model.as_ref()),
            Origin::Checkpoint(checkpoint) => checkpoint.base.as_ref().map(|(_, base)| base),
        };
        if let Some(base) = base {
            plan.teacher.upload_from(session, &base.weights)?;
        }
        match (self, &plan.shape.lora, base) {
            (Origin::Checkpoint(checkpoint), Some(_), Some(base)) => {
                plan.parameters.upload(session, &base.weights)?;
                if let ModelWeights::Adapted(merged) = &checkpoint.weights {
                    plan.adapters.upload(session, &merged.adapters)?;
                }
            }
            (_, lora, _) => {
                self.upload(session, &plan.parameters, config, seed)?;
                if let Some(lora) = lora {
                    plan.adapters.upload(session, &InitialLora { config, lora, seed })?;
                }
            }
        }
        Ok(())
    }

    /// Gives a session the weights of the model.
    pub(crate) fn upload(
        &self,
        session: &mut Session,
        parameters: &TensorTable,
        config: &ModelConfig,
        seed: u64,
    ) -> Result<(), Error> {
        match self {
            Origin::Random => parameters.upload(session, &Initial { config, seed })?,
            Origin::Model(model) => parameters.upload(session, &model.weights)?,
            Origin::Checkpoint(checkpoint) => parameters.upload(session, &checkpoint.weights)?,
        }
        Ok(())
    }
}
