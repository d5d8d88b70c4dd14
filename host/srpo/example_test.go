package srpo_test

import (
	"fmt"

	"github.com/srpo-dev/srpo/host/srpo"
)

// One iteration's rewards and advantages for one prompt.
func ExampleScoreBatch() {
	rollouts := []srpo.Rollout{
		{ID: "stack/0", Task: "stack", Success: true, Embedding: []float64{0, 1}},
		{ID: "stack/1", Task: "stack", Success: true, Embedding: []float64{0, 3}},
		{ID: "stack/2", Task: "stack", Embedding: []float64{1, 2}}, // close
		{ID: "stack/3", Task: "stack", Embedding: []float64{9, 2}}, // far
	}
	scored, err := srpo.ScoreBatch(rollouts, srpo.Known{}, srpo.DefaultRewardOptions())
	if err != nil {
		fmt.Println(err)
		return
	}
	advantages, _, err := srpo.Advantages(scored.Rollouts, srpo.DefaultAdvantageOptions())
	if err != nil {
		fmt.Println(err)
		return
	}
	for i, s := range scored.Rollouts {
		fmt.Printf("%s distance %.0f reward %.3f advantage %+.2f\n", s.ID, s.Distance, s.Reward, advantages[i].Value)
	}
	fmt.Println(scored.Tasks[0].Clusters, "centre:", scored.Tasks[0].Notes[0])
	// Output:
	// stack/0 distance 2 reward 1.000 advantage +0.92
	// stack/1 distance 2 reward 1.000 advantage +0.92
	// stack/2 distance 1 reward 0.585 advantage -0.35
	// stack/3 distance 9 reward 0.215 advantage -1.48
	// 1 centre: one mean of all references: 2 references cannot form two modes
}

// Two ways to do a task are two centres.
func ExampleCluster() {
	c, err := srpo.Cluster(
		[][]float64{{0, 0}, {0, 1}, {1, 0}, {20, 20}, {20, 21}, {21, 20}},
		srpo.DefaultClusterOptions(),
	)
	fmt.Println(c.Labels, c.Sizes, err)
	d, j := c.Nearest([]float64{20, 20})
	fmt.Printf("%.2f to centre %d\n", d, j)
	// Output:
	// [0 0 0 1 1 1] [3 3] <nil>
	// 0.47 to centre 1
}

// siiRL's reward of the nearest of several failures does not depend on how far all of them are.
func ExampleMinMaxRewards() {
	fmt.Printf("%.3f\n", srpo.MinMaxRewards([]float64{1, 2}, 0.6, 10, 0.5))
	fmt.Printf("%.3f\n", srpo.MinMaxRewards([]float64{1000, 2000}, 0.6, 10, 0.5))
	fmt.Printf("%.3f\n", srpo.AnchoredRewards([]float64{1, 2}, 10, 0.8, 0.1))
	fmt.Printf("%.3f\n", srpo.AnchoredRewards([]float64{1000, 2000}, 10, 0.8, 0.1))
	// Output:
	// [0.596 0.004]
	// [0.596 0.004]
	// [0.635 0.505]
	// [0.000 0.000]
}

// A memory is part of a checkpoint.
func ExampleMemory() {
	memory, err := srpo.NewMemory(64)
	if err != nil {
		fmt.Println(err)
		return
	}
	memory.Remember(7, 2, []srpo.Rollout{{ID: "7/stack/0", Task: "stack", Success: true, Embedding: []float64{0, 1}}})
	data, err := memory.MarshalBinary()
	if err != nil {
		fmt.Println(err)
		return
	}
	var resumed srpo.Memory
	fmt.Println(resumed.UnmarshalBinary(data), resumed.Len("stack"))
	// Output: <nil> 1
}

// Steps that made progress have a larger weight when a policy is fitted to recorded data.
func ExampleProgressAdvantages() {
	advantages, err := srpo.ProgressAdvantages([]srpo.Curve{{ID: "demo", Progress: []float64{0, 0.4, 0.4, 1}}}, 1e-8)
	fmt.Printf("%.2f %v\n", advantages[0], err)
	fmt.Printf("%.2f\n", srpo.RegressionWeight(advantages[0][2], 1, 20))
	// Output:
	// [0.27 -1.34 1.07] <nil>
	// 2.91
}

func ExampleDiagnose() {
	reached, grasped := 0.2, 0.7
	rollouts := []srpo.Rollout{
		{ID: "0", Success: true, Embedding: []float64{0, 1}},
		{ID: "1", Success: true, Embedding: []float64{0, 2}},
		{ID: "2", Embedding: []float64{3, 1}, Progress: &grasped},
		{ID: "3", Embedding: []float64{7, 1}, Progress: &reached},
	}
	scored, err := srpo.ScoreBatch(rollouts, srpo.Known{}, srpo.DefaultRewardOptions())
	if err != nil {
		fmt.Println(err)
		return
	}
	d, err := srpo.Diagnose(scored.Rollouts)
	fmt.Println(d.AUROC.Value, d.Spearman.Value, d.PairOrder.Value, err)
	// Output: 1 1 1 <nil>
}

// Rollouts without a verdict are scored against those with one.
func ExampleRollout_unlabelled() {
	rollouts := []srpo.Rollout{
		{ID: "0", Task: "stack", Success: true, Embedding: []float64{0, 1}},
		{ID: "1", Task: "stack", Success: true, Embedding: []float64{0, 3}},
		{ID: "2", Task: "stack", Embedding: []float64{1, 2}},
		{ID: "3", Task: "stack", Embedding: []float64{9, 2}},
		{ID: "4", Task: "stack", Unlabelled: true, Embedding: []float64{1, 2}},
	}
	scored, err := srpo.ScoreBatch(rollouts, srpo.Known{}, srpo.DefaultRewardOptions())
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, s := range scored.Rollouts {
		fmt.Printf("%s %.3f\n", s.ID, s.Reward)
	}
	// Output:
	// 0 1.000
	// 1 1.000
	// 2 0.585
	// 3 0.215
	// 4 0.585
}
