//! The recipes of `configs/`, built into the program so that their names work from anywhere.

/// Names and files, in the order in which a newcomer should meet them.
pub(crate) const RECIPES: &[(&str, &str)] = &[
    ("demo", include_str!("../../../configs/demo.toml")),
    ("overfit", include_str!("../../../configs/overfit.toml")),
    ("shakespeare-char-cpu", include_str!("../../../configs/shakespeare-char-cpu.toml")),
    ("shakespeare-char", include_str!("../../../configs/shakespeare-char.toml")),
    ("train-11", include_str!("../../../configs/train-11.toml")),
    ("gpt2-124m", include_str!("../../../configs/gpt2-124m.toml")),
    ("finetune", include_str!("../../../configs/finetune.toml")),
    ("finetune-shakespeare", include_str!("../../../configs/finetune-shakespeare.toml")),
    ("gaussian-from-gpt2", include_str!("../../../configs/gaussian-from-gpt2.toml")),
    ("pointwise-from-gpt2", include_str!("../../../configs/pointwise-from-gpt2.toml")),
    ("gaussian-lora-from-gpt2", include_str!("../../../configs/gaussian-lora-from-gpt2.toml")),
    ("gaussian-layerwise-from-gpt2", include_str!("../../../configs/gaussian-layerwise-from-gpt2.toml")),
    ("eval-gpt2", include_str!("../../../configs/eval-gpt2.toml")),
    ("eval-gpt2-medium", include_str!("../../../configs/eval-gpt2-medium.toml")),
    ("eval-gpt2-large", include_str!("../../../configs/eval-gpt2-large.toml")),
    ("eval-gpt2-xl", include_str!("../../../configs/eval-gpt2-xl.toml")),
];

/// The text of a recipe.
pub(crate) fn find(name: &str) -> Option<&'static str> {
    RECIPES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// What a recipe says of itself: its first line.
pub(crate) fn summary(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim_start_matches(['#', ' '])
}

#[cfg(test)]
mod tests {
    use oxigpt_train::settings::Settings;

    use super::*;

    #[test]
    fn every_recipe_file_is_built_in_and_valid() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs");
        let mut files: Vec<_> = fs_err::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        let mut names: Vec<_> = RECIPES.iter().map(|(name, _)| (*name).to_owned()).collect();
        files.sort();
        names.sort();
        assert_eq!(files, names);

        for (name, text) in RECIPES {
            let mut settings = Settings::default();
            settings.apply_toml(text, name).unwrap();
            let settings = settings.resolve().unwrap();
            assert!(settings.warnings().is_empty(), "{name}: {:?}", settings.warnings());
            assert_eq!(settings.out_dir, format!("out/{name}"));
            assert!(summary(text).ends_with('.') && text.starts_with("# "), "{name}: {}", summary(text));
        }
    }

    #[test]
    fn steps_are_as_large_as_the_comments_say() {
        let tokens = |name| {
            let mut settings = Settings::default();
            settings.apply_toml(find(name).unwrap(), name).unwrap();
            settings.resolve().unwrap().total_batch_size
        };
        assert_eq!(tokens("demo"), 1024);
        assert_eq!(tokens("overfit"), 256);
        assert_eq!(tokens("shakespeare-char"), 16_384);
        assert_eq!(tokens("shakespeare-char-cpu"), 768);
        assert_eq!(tokens("train-11"), 491_520);
        assert_eq!(tokens("gaussian-from-gpt2"), 491_520);
        assert_eq!(tokens("pointwise-from-gpt2"), 491_520);
        assert_eq!(tokens("gpt2-124m"), 524_288);
    }
}
