//! The keys of the settings as flags: `--key=value` for each, of all commands that take a configuration or a part of one.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use oxigpt_train::settings::{self, KEYS, Kind, Settings};

/// Every `--key=value` of the settings, in the order of the command line.
#[derive(Debug, Default)]
pub(crate) struct Flags(pub(crate) Vec<(String, String)>);

/// The same keys for an evaluation, which most of them do not concern: those are accepted and not listed.
#[derive(Debug, Default)]
pub(crate) struct EvalFlags(pub(crate) Flags);

/// The keys by which a model's attention is exchanged for another.
#[derive(Debug, Default)]
pub(crate) struct AttentionFlags(pub(crate) Flags);

/// The keys that an evaluation looks at, beside model and data.
const EVAL_KEYS: [&str; 8] =
    ["batch_size", "block_size", "attn_type", "attn_scale", "attn_clamp", "device", "dtype", "threads"];

const ATTENTION_KEYS: [&str; 3] = ["attn_type", "attn_scale", "attn_clamp"];

/// The flags of all keys.
fn key_args() -> impl Iterator<Item = Arg> {
    let defaults = Settings::default();
    KEYS.iter().map(move |key| key_arg(key, &defaults.text_of(key.name).unwrap_or_default()))
}

impl Args for EvalFlags {
    fn augment_args(command: Command) -> Command {
        let is_listed = |arg: &Arg| EVAL_KEYS.contains(&arg.get_id().as_str());
        command.args(key_args().map(|arg| {
            let hide = !is_listed(&arg);
            models_own(arg).hide(hide)
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for EvalFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Flags::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

/// The flag of a key that has no default of its own where there is a model.
fn models_own(arg: Arg) -> Arg {
    let key = KEYS.iter().find(|key| arg.get_id() == key.name).map(|key| (key.name, key.doc));
    match key {
        Some(("batch_size", _)) => arg.help("windows at once; auto = as many as make sense [default: 12]"),
        Some(("block_size", _)) => arg.help("tokens in a window [default: the model's]"),
        Some((name, doc)) if ATTENTION_KEYS.contains(&name) => {
            arg.help(format!("{doc} [default: the model's]"))
        }
        _ => arg,
    }
}

impl Args for AttentionFlags {
    fn augment_args(command: Command) -> Command {
        let args = key_args().filter(|arg| ATTENTION_KEYS.contains(&arg.get_id().as_str()));
        command.args(args.map(models_own))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for AttentionFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(Flags::of(matches, &ATTENTION_KEYS)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        command.args(key_args())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The flag of one key; a boolean may stand alone, for true.
fn key_arg(key: &'static settings::Key, default: &str) -> Arg {
    let arg = Arg::new(key.name)
        .long(key.name)
        .alias(key.name.replace('_', "-"))
        .help(format!("{} [default: {default}]", key.doc))
        .help_heading(key.group)
        .action(ArgAction::Append);
    match settings::kind_of(key.name) {
        Some(Kind::Bool) => arg.value_name("BOOL").num_args(0..=1).default_missing_value("true"),
        Some(Kind::File) => arg.value_name("true|PATH").num_args(0..=1).default_missing_value("true"),
        Some(Kind::Integer) => arg.value_name("N").allow_hyphen_values(true),
        Some(Kind::Count) => arg.value_name("N|auto").allow_hyphen_values(true),
        Some(Kind::Float) => arg.value_name("X").allow_hyphen_values(true),
        Some(Kind::Choice(words)) => arg.value_name(words.join("|")),
        Some(Kind::Text) | None => arg.value_name("TEXT").allow_hyphen_values(true),
    }
}

impl Flags {
    /// What was typed of some keys, in its order.
    fn of(matches: &ArgMatches, keys: &[&str]) -> Flags {
        let mut found: Vec<(usize, String, String)> = Vec::new();
        for &key in keys {
            let indices = matches.indices_of(key).into_iter().flatten();
            let values = matches.get_many::<String>(key).into_iter().flatten();
            found.extend(indices.zip(values).map(|(i, value)| (i, key.to_owned(), value.clone())));
        }
        found.sort();
        Flags(found.into_iter().map(|(_, key, value)| (key, value)).collect())
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Flags::of(matches, &KEYS.iter().map(|key| key.name).collect::<Vec<_>>()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
