//! Recipes: any text is refused in words, or gives settings whose own text reads back as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oxigpt_train::settings::Settings;

fn check(settings: &Settings) {
    let mut again = Settings::default();
    again.apply_toml(&settings.to_toml(), "again").expect("its own text");
    // Text, because a number that is none does not equal itself.
    assert_eq!(again.to_toml(), settings.to_toml());
}

fuzz_target!(|text: &str| {
    let mut settings = Settings::default();
    if settings.apply_toml(text, "fuzz").is_err() {
        return;
    }
    check(&settings);
    if let Ok(settings) = settings.resolve() {
        settings.warnings();
        check(&settings);
    }
});
