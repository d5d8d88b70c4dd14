package audit_test

import (
	"fmt"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/audit"
	"github.com/srpo-dev/srpo/host/srpo"
)

// Embeddings of any encoder become rewards. An attempt without a label is scored against the others.
func ExampleReward() {
	yes, no := true, false
	list := []attempts.Attempt{
		{ID: "a", Task: "stack", Success: &yes}, {ID: "b", Task: "stack", Success: &yes},
		{ID: "c", Task: "stack", Success: &no}, {ID: "d", Task: "stack", Success: &no},
		{ID: "e", Task: "stack"},
		{ID: "f", Task: "stack", Success: &no, Problem: "the camera was off"},
	}
	embeddings := [][]float64{{0, 1}, {0, 3}, {1, 2}, {9, 2}, {3, 2}, nil}
	scores, err := audit.Reward(list, embeddings, nil, srpo.DefaultRewardOptions())
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, s := range scores.Attempts {
		if s.Dropped {
			fmt.Println(s.ID, "dropped:", s.Reason)
			continue
		}
		fmt.Printf("%s %.3f\n", s.ID, s.Reward)
	}
	// Output:
	// a 1.000
	// b 1.000
	// c 0.585
	// d 0.215
	// e 0.498
	// f dropped: the camera was off
}

// Each success is measured against centres that were computed without it.
func ExampleMeasure() {
	yes, no := true, false
	items := []audit.Item{
		{ID: "a", Task: "stack", Success: &yes, Frames: 20, Embedding: []float64{0, 1.0}},
		{ID: "b", Task: "stack", Success: &yes, Frames: 21, Embedding: []float64{0, 1.4}},
		{ID: "c", Task: "stack", Success: &yes, Frames: 19, Embedding: []float64{0, 1.2}},
		{ID: "d", Task: "stack", Success: &no, Frames: 40, Embedding: []float64{3, 1.1}},
		{ID: "e", Task: "stack", Success: &no, Frames: 40, Embedding: []float64{5, 1.3}},
	}
	m, err := audit.Measure(items, audit.MeasureOptions{Cluster: srpo.DefaultClusterOptions()})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("AUROC %.2f, of length alone %.2f\n", m.Mean["auroc"].Value, m.Mean["length_auroc"].Value)
	// Output: AUROC 1.00, of length alone 1.00
}

func ExampleProgress() {
	distances := []float64{4, 3, 3.5, 1} // of growing windows to the end of the attempt
	curve := audit.Progress(distances)
	mono, _ := audit.Mono(curve)
	sc, _ := audit.SC(curve)
	fmt.Printf("%.2f: %.2f of the steps go up, rank correlation with time %.2f\n", curve, mono, sc)
	// Output: [0.00 0.33 0.17 1.00]: 0.67 of the steps go up, rank correlation with time 0.80
}

func ExampleMMD() {
	successes, failures := []float64{0.9, 1, 0.95}, []float64{0.2, 0.4, 0.3}
	mmd, _ := audit.MMD(successes, failures)
	js, _ := audit.JS(successes, failures)
	smd, _ := audit.SMD(successes, failures)
	fmt.Printf("MMD %.3f JS %.3f SMD %.2f\n", mmd, js, smd)
	// Output: MMD 0.986 JS 0.693 SMD 8.22
}
