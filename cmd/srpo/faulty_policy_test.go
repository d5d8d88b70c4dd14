package main

import (
	"context"
	"fmt"
	"iter"
	"math"
	"os"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
	"github.com/srpo-dev/srpo/policies/tiny"
)

// faultyPolicy is tiny with a fault in iteration 2. Group 1 has extremely unlikely actions. An update with it returns
// NaN statistics in mode once, and an error in mode diverges. In mode always every update returns NaN statistics. In
// mode nan the log-probabilities of one episode of group 1 are NaN, in mode nans those of every episode. In mode
// infinite the loss of imitation is infinite.
type faultyPolicy struct {
	*tiny.Policy
	mode string
}

func (p faultyPolicy) Info(ctx context.Context) (plugins.Info, error) {
	info, err := p.Policy.Info(ctx)
	info.Name = "faulty"
	return info, err
}

// isFaultyID reports whether a trajectory, "<iteration>/<task>/<group>/<episode>", is of iteration 2 and group 1.
func isFaultyID(id string) bool {
	parts := strings.Split(id, "/")
	return parts[0] == "2" && len(parts) > 2 && parts[len(parts)-2] == "1"
}

func (p faultyPolicy) Act(ctx context.Context, a policy.Act) ([]policy.Result, error) {
	r, err := p.Policy.Act(ctx, a)
	for i := range r {
		id := a.Items[i].Trajectory
		for k := range r[i].LogProbs {
			switch {
			case p.mode == "nan" && isFaultyID(id) && strings.HasSuffix(id, "/0"),
				p.mode == "nans" && strings.HasPrefix(id, "2/"):
				r[i].LogProbs[k] = float32(math.NaN())
			case !strings.HasPrefix(p.mode, "nan") && isFaultyID(id):
				r[i].LogProbs[k] = -1e6
			}
		}
	}
	return r, err
}

func (p faultyPolicy) Imitate(
	ctx context.Context, im policy.Imitate, demos iter.Seq2[policy.Demonstration, error],
	progress func(done, loss float64),
) error {
	return p.Policy.Imitate(ctx, im, demos, func(done, loss float64) {
		if p.mode == "infinite" {
			loss = math.Inf(1)
		}
		progress(done, loss)
	})
}

func (p faultyPolicy) Update(ctx context.Context, u policy.Update, progress func(float64)) (policy.Statistics, error) {
	s, err := p.Policy.Update(ctx, u, progress)
	for _, t := range u.Trajectories {
		if p.mode == "diverges" && isFaultyID(t.Trajectory) {
			return s, plugins.Errorf(plugins.Diverged, "loss or gradient is not finite at step 0").
				WithHint("lower policy.faulty.lr")
		}
		if p.mode == "once" && isFaultyID(t.Trajectory) || p.mode == "always" && strings.HasPrefix(t.Trajectory, "2/") {
			s.GradNorm = math.NaN()
		}
	}
	return s, err
}

// dieAtStart is called at the start and at each episode. The process dies at its 12th episode, and every later process
// dies at its start.
func (b *badSim) dieAtStart() {
	mark := os.Getenv("MARK")
	if _, err := os.Stat(mark); err == nil {
		for i := range 30 {
			fmt.Fprintf(os.Stderr, "loading part %d of 29\n", i)
		}
		fmt.Fprintln(os.Stderr, "simulator: licence expired")
		os.Exit(9)
	}
	if b.episodes++; b.episodes == 12 {
		_ = os.WriteFile(mark, nil, 0o644)
		os.Exit(9)
	}
}
