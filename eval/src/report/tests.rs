use super::*;

fn evaluation() -> Evaluation {
    let scores = Scores {
        fid: Some(12.345),
        samples: 100,
        images: "a<b".into(),
        warnings: vec!["only 100 samples".into()],
        ..Scores::default()
    };
    Evaluation {
        scores,
        samples: None,
        neighbours: None,
    }
}

fn dots() -> Vec<u8> {
    let picture = RgbImage {
        width: 2,
        height: 1,
        data: vec![1, 2, 3, 4, 5, 6],
    };
    encode_png(&picture).unwrap()
}

#[test]
fn incomparable_numbers_are_marked_wherever_they_are_printed() {
    let evaluation = evaluation();
    assert!(
        markdown(std::slice::from_ref(&evaluation.scores)).contains("100 samples (not comparable) | 12.35")
    );
    assert!(html("x", std::slice::from_ref(&evaluation), &[]).contains("not comparable"));
    let json = serde_json::to_value(evaluation.scores).unwrap();
    assert_eq!(
        (json["comparable"].as_bool(), json.get("sfid")),
        (Some(false), None)
    );
}

#[test]
fn the_arithmetic_is_told_where_it_is_not_the_processors() {
    let mut scores = evaluation().scores;
    let row = |scores: &Scores| {
        let rows = scores.definition();
        rows.into_iter().find(|(name, _)| *name == "Inception arithmetic")
    };
    assert_eq!(row(&scores), None);
    scores.arithmetic = Some("cuda f32".to_owned());
    assert_eq!(row(&scores).unwrap().1, "cuda f32");
    let json = serde_json::to_string(&scores).unwrap();
    assert_eq!(serde_json::from_str::<Scores>(&json).unwrap(), scores);
}

#[test]
fn the_page_needs_nothing_else_and_escapes_names() {
    let mut evaluation = evaluation();
    evaluation.samples = Some(folder::samples(dots()));
    let page = html("t", &[evaluation], &[]);
    assert!(page.contains("a&lt;b") && page.contains("data:image/png;base64,iVBORw0KGgo"));
    assert!(!page.contains("http") && !page.contains("<script"));
    let wrong = RgbImage {
        width: 3,
        height: 1,
        data: vec![0],
    };
    assert!(encode_png(&wrong).is_err());
}

#[test]
fn an_evaluation_is_read_as_it_was_saved_and_pictures_of_one_before_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut saved = evaluation();
    saved.samples = Some(folder::samples(dots()));
    saved.neighbours = Some(folder::neighbours(dots()));
    folder::save(dir.path(), &saved, &[]).unwrap();
    let read = folder::read(dir.path()).unwrap();
    assert_eq!((&read.scores, &read.samples), (&saved.scores, &saved.samples));
    assert_eq!(read.neighbours, saved.neighbours);
    assert!(
        fs_err::read_to_string(dir.path().join("report.md"))
            .unwrap()
            .contains("](neighbours.png)")
    );

    saved.neighbours = None;
    folder::save(dir.path(), &saved, &[]).unwrap();
    assert_eq!(folder::read(dir.path()).unwrap().neighbours, None);
}

#[test]
fn the_published_rows_are_of_the_same_benchmark() {
    let of = |reference: &str, side| {
        let scores = Scores {
            reference: reference.into(),
            image_size: [side, side],
            ..Scores::default()
        };
        markdown(&[scores])
    };
    assert!(
        of("VIRTUAL_imagenet256_labeled.npz", 256).contains("DiffuSSM-XL (published, ImageNet 256) | 9.07")
    );
    assert!(of("VIRTUAL_imagenet512.npz", 512).contains("ImageNet 512) | 3.41 | 5.84 | – |"));
    assert!(of("data/lsun-church-256", 256).contains("LSUN church 256) | 3.94"));
    assert!(of("VIRTUAL_lsun_bedroom256.npz", 256).contains("LSUN bedroom 256) | 5.43"));
}

#[test]
fn scores_of_an_earlier_version_can_be_read() {
    let old = r#"{"fid": 2.0, "samples": 4, "comparable": true, "images": "a", "reference": "b", "inception": "c",
                  "image_size": [2, 2], "warnings": []}"#;
    let scores: Scores = serde_json::from_str(old).unwrap();
    assert_eq!((scores.fid, scores.model.is_none()), (Some(2.0), true));
}
