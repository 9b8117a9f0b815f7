//! A text made by a small grammar of stories, for trying things out without any data: its sentences are simple enough
//! that a model of a million parameters learns to write new ones in a minute.

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

const NAMES: &[(&str, &str, &str)] = &[
    ("Lily", "she", "her"),
    ("Tom", "he", "his"),
    ("Mia", "she", "her"),
    ("Ben", "he", "his"),
    ("Anna", "she", "her"),
    ("Sam", "he", "his"),
    ("Zoe", "she", "her"),
    ("Max", "he", "his"),
];
const KINDS: &[&str] = &["girl", "boy", "cat", "dog", "rabbit", "bear", "bird", "mouse", "fox", "duck"];
const MOODS: &[&str] = &["little", "happy", "brave", "kind", "curious", "sleepy", "clever", "shy"];
const PLACES: &[&str] = &["the forest", "the garden", "the park", "the beach", "the farm", "the lake", "the hill"];
const THINGS: &[&str] = &["ball", "boat", "flower", "shell", "kite", "book", "hat", "cake", "box", "star"];
const COLORS: &[&str] = &["red", "blue", "green", "yellow", "white", "golden", "pink"];
const TROUBLES: &[&str] = &[
    "it was stuck in a tree",
    "it fell into the water",
    "it was too heavy",
    "it broke in two",
    "it rolled down the hill",
];
const FEELINGS: &[(&str, &str)] = &[("sad", "happy"), ("scared", "brave"), ("angry", "calm"), ("worried", "glad")];
const LESSONS: &[&str] = &[
    "it is good to help a friend",
    "sharing makes everyone happy",
    "it is fine to ask for help",
    "being kind is better than being fast",
    "friends can fix almost anything",
];

/// `count` short stories, the same for the same seed. Each begins with "Once upon a time" and ends with "The end.".
///
/// ```
/// let stories = fornax_train::stories(2, 7);
/// assert!(stories.iter().all(|story| story.starts_with("Once upon a time") && story.ends_with("The end.")));
/// assert_eq!(stories, fornax_train::stories(2, 7));
/// ```
pub fn stories(count: usize, seed: u64) -> Vec<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| story(&mut rng)).collect()
}

fn story(rng: &mut ChaCha8Rng) -> String {
    let (name, they, their) = *pick(rng, NAMES);
    let (friend, _, _) = loop {
        let other = *pick(rng, NAMES);
        if other.0 != name {
            break other;
        }
    };
    let (kind, mood, place) = (*pick(rng, KINDS), *pick(rng, MOODS), *pick(rng, PLACES));
    let (color, thing) = (*pick(rng, COLORS), *pick(rng, THINGS));
    let (before, after) = *pick(rng, FEELINGS);
    let upper = capitalized(they);
    let mut text = format!(
        "Once upon a time, there was a {mood} {kind} named {name}. {name} loved to play in {place}. One day, {they} found a {color} {thing} there."
    );
    if rng.random_bool(0.6) {
        let line = match rng.random_range(0..3) {
            0 => format!(" \"What a nice {thing}!\" said {name}."),
            1 => format!(" {name} wanted to show it to {their} friend {friend}."),
            _ => format!(" {upper} had never seen such a {color} {thing} before."),
        };
        text.push_str(&line);
    }
    let trouble = *pick(rng, TROUBLES);
    text.push_str(&format!(" But then {trouble}. {name} was very {before}."));
    let help = match rng.random_range(0..3) {
        0 => format!(" {friend} came and said, \"Do not be {before}. I will help you.\""),
        1 => format!(" \"Can you help me?\" {name} asked {friend}. \"Yes, I can,\" said {friend}."),
        _ => format!(" {name} called {their} friend {friend}, and {friend} came running."),
    };
    text.push_str(&help);
    text.push_str(&format!(" Together they got the {thing} back. {name} was {after} again."));
    text.push_str(&format!(" {name} learned that {}. The end.", pick(rng, LESSONS)));
    text
}

fn pick<'a, T>(rng: &mut ChaCha8Rng, list: &'a [T]) -> &'a T {
    list.choose(rng).expect("the lists above are not empty")
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
