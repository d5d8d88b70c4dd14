package bench

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/plugins"
)

// RewardOptions are the settings of [Reward].
type RewardOptions struct {
	// Sizes are the numbers of attempts to measure, half of them successes; default 100, 1000, 10000.
	Sizes []int
	// Dim is the length of an embedding; default 1408, as in V-JEPA 2 ViT-g.
	Dim int
	// Repeats is the number of runs; default 3.
	Repeats int
}

// Reward measures clustering and rewards in this process, on random embeddings of two modes. Its error is
// Canceled if ctx ends.
func Reward(ctx context.Context, o RewardOptions) (Section, error) {
	if len(o.Sizes) == 0 {
		o.Sizes = []int{100, 1000, 10000}
	}
	orDefault(&o.Dim, 1408)
	orDefault(&o.Repeats, 3)
	s := Section{Name: "reward", Title: "Reward and clustering",
		Text: fmt.Sprintf("`srpo.Cluster` on all embeddings, and `srpo.ScoreBatch` (cluster the successes, "+
			"distances, rewards) on a batch of which half are successes. Embeddings of %d numbers, two modes, %d "+
			"cores. Median of %d runs.", o.Dim, runtime.GOMAXPROCS(0), o.Repeats)}
	t := Table{Title: "Seconds", Columns: []string{"attempts", "cluster: auto", "centres", "cluster: reference",
		"score a batch: auto, zscore"}}
	err := measured(&s, func() error {
		for _, n := range o.Sizes {
			row, err := rewardRow(ctx, n, o)
			if err != nil {
				return err
			}
			t.Rows = append(t.Rows, row)
		}
		return nil
	})
	s.Tables = []Table{t}
	return s, err
}

func rewardRow(ctx context.Context, n int, o RewardOptions) (Row, error) {
	points := twoModes(n, o.Dim)
	rollouts := make([]srpo.Rollout, n)
	for i := range rollouts {
		rollouts[i] = srpo.Rollout{ID: fmt.Sprintf("%08d", i), Task: "t", Success: i%2 == 0, Embedding: points[i]}
	}
	centres := 0
	seconds := func(f func() error) (float64, error) {
		var all []float64
		for range o.Repeats {
			if ctx.Err() != nil {
				return 0, plugins.Errorf(plugins.Canceled, "stopped: %w", ctx.Err())
			}
			began := time.Now()
			if err := f(); err != nil {
				return 0, err
			}
			all = append(all, time.Since(began).Seconds())
		}
		return median(all), nil
	}
	auto, err := seconds(func() error {
		c, err := srpo.Cluster(points, srpo.DefaultClusterOptions())
		centres = len(c.Centres)
		return err
	})
	if err != nil {
		return Row{}, err
	}
	reference, err := seconds(func() error {
		opt := srpo.DefaultClusterOptions()
		opt.Kind = srpo.ClusterReference
		_, err := srpo.Cluster(points, opt)
		return err
	})
	if err != nil {
		return Row{}, err
	}
	batch, err := seconds(func() error {
		_, err := srpo.ScoreBatch(rollouts, srpo.Known{}, srpo.DefaultRewardOptions())
		return err
	})
	cell := func(v float64) string { return fmt.Sprintf("%.3g", v) }
	return Row{Cells: []string{fmt.Sprint(n), cell(auto), fmt.Sprint(centres), cell(reference), cell(batch)},
		Values: map[string]float64{"attempts": float64(n), "auto": auto, "centres": float64(centres),
			"reference": reference, "batch": batch}}, err
}

// twoModes draws n points around two centres whose distance is ten times the radius of each mode.
func twoModes(n, dim int) [][]float64 {
	rng := rand.New(rand.NewPCG(1408, uint64(n)))
	out := make([][]float64, n)
	for i := range out {
		out[i] = make([]float64, dim)
		shift := 0.0
		if i%4 < 2 { // both labels, which alternate, have points of both modes
			shift = 10 * math.Sqrt(float64(dim))
		}
		for j := range out[i] {
			out[i][j] = rng.NormFloat64()
		}
		out[i][0] += shift
	}
	return out
}
