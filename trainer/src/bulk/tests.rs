//! Parts are the same however they come about, and nothing else is taken for them.

use super::*;
use crate::distributed::Single;
use crate::distributed::threads::Threads;
use crate::generate::tests::generator;
use crate::sampler::{Guidance, Sampler};

const COUNT: u64 = PART_IMAGES + 6;

fn plan() -> SamplePlan {
    SamplePlan {
        steps: "3".to_owned(),
        sampler: Sampler::Ddpm,
        guidance: Guidance {
            scale: 1.5,
            ..Guidance::default()
        },
        ..SamplePlan::default()
    }
}

/// Draws the first `count` images in one process; the numbers of images that were there and that are there.
fn draw(dir: &Path, plan: &SamplePlan, count: u64, batch: usize) -> Result<(u64, u64), Error> {
    let generator = generator();
    let vae = generator.autoencoder().unwrap();
    let set = SampleSet::open(dir, &generator, plan, count, &mut Single)?;
    let mut seen = Vec::new();
    set.draw(&vae, batch, &mut Single, |done, _| seen.push(done))?;
    Ok((seen[0], *seen.last().unwrap()))
}

fn bytes(dir: &Path) -> Vec<Vec<u8>> {
    let part = |number: u64| fs_err::read(dir.join(format!("part-{number:05}.npz"))).unwrap();
    (0..2).map(part).collect()
}

#[test]
fn neither_batches_nor_processes_show() {
    let dir = tempfile::tempdir().unwrap();
    let one = dir.path().join("1");
    assert_eq!(draw(&one, &plan(), COUNT, 1).unwrap(), (0, COUNT));
    for batch in [4, 7, 16, 200] {
        let other = dir.path().join(batch.to_string());
        draw(&other, &plan(), COUNT, batch).unwrap();
        assert!(bytes(&other) == bytes(&one), "batch {batch}");
    }
    let (two, plan) = (dir.path().join("two"), plan());
    std::thread::scope(|scope| {
        for mut group in Threads::group(2) {
            let (two, plan) = (&two, &plan);
            scope.spawn(move || {
                let generator = generator();
                let vae = generator.autoencoder().unwrap();
                let set = SampleSet::open(two, &generator, plan, COUNT, &mut group).unwrap();
                set.draw(&vae, 5, &mut group, |_, _| {}).unwrap();
                assert!(set.parts().all(|part| set.is_done(part)));
            });
        }
    });
    assert!(bytes(&two) == bytes(&one), "two processes");
}

#[test]
fn what_is_missing_or_cut_is_drawn_again_and_a_larger_set_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    draw(&whole, &plan(), COUNT, 8).unwrap();
    draw(&cut, &plan(), 10, 8).unwrap();
    assert_eq!(draw(&cut, &plan(), COUNT, 8).unwrap(), (0, COUNT));
    assert!(bytes(&cut) == bytes(&whole));
    let part = cut.join("part-00001.npz");
    let text = fs_err::read(&part).unwrap();
    fs_err::write(&part, &text[..text.len() / 2]).unwrap();
    assert_eq!(draw(&cut, &plan(), COUNT, 8).unwrap(), (PART_IMAGES, COUNT));
    assert!(bytes(&cut) == bytes(&whole));

    let out = dir.path().join("samples.npz");
    let (generator, plan) = (generator(), plan());
    let set = SampleSet::open(&whole, &generator, &plan, COUNT, &mut Single).unwrap();
    set.assemble(&out).unwrap();
    let vae = generator.autoencoder().unwrap();
    let images = generator
        .images(&plan, &vae, &(0..COUNT).collect::<Vec<_>>())
        .unwrap();
    let mut found = Vec::new();
    NpzReader::open(&out)
        .unwrap()
        .visit_images(IMAGES, 9, usize::MAX, |images| {
            found.extend(images);
            Ok::<(), npz::Error>(())
        })
        .unwrap();
    assert!(found == images);
    set.remove().unwrap();
    assert!(!whole.exists());
}

#[test]
fn a_folder_of_other_samples_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    draw(dir.path(), &plan(), 2, 2).unwrap();
    let other = SamplePlan { seed: 3, ..plan() };
    let error = draw(dir.path(), &other, 2, 2).unwrap_err().to_string();
    assert!(
        error.contains("holds other samples: plan.seed was 0, now it is 3"),
        "{error}"
    );
}
