package host

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/srpo-dev/srpo/host/attempts"
	"github.com/srpo-dev/srpo/host/audit"
	"github.com/srpo-dev/srpo/host/config"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/plugins"
)

// RewardOptions say what [Reward] is to score, and how.
type RewardOptions struct {
	// Config holds [reward], [encoder.NAME] and how plugins are run.
	Config *config.Config
	Launch Launcher
	// Terminal shows progress and warnings.
	Terminal *report.Terminal
	// Source is what attempts.Read reads.
	Source string
}

// RewardResult is what `srpo reward` found: the object that --json prints.
type RewardResult struct {
	Source string `json:"source"`
	// Reward, Cluster and References are as asked for.
	Reward     string `json:"reward"`
	Cluster    string `json:"cluster"`
	References string `json:"references"`
	// Attempts are in the order of the input.
	Attempts []audit.Score `json:"attempts"`
	Tasks    []audit.Task  `json:"tasks"`
	Metrics  any           `json:"metrics"`
	Warnings []string      `json:"warnings,omitempty"`
}

// Reward scores attempts that are there already, and trains nothing.
func Reward(ctx context.Context, o RewardOptions) (*RewardResult, error) {
	list, err := attempts.Read(ctx, o.Source)
	if err != nil {
		return nil, err
	}
	r := &RewardResult{Source: o.Source, Reward: o.Config.Reward.Kind, Cluster: o.Config.Reward.Cluster, References: o.Config.Reward.References}
	r.Warnings = append(r.Warnings, list.Warnings...)
	embeddings := make([][]float64, len(list.Attempts))
	for i, a := range list.Attempts {
		embeddings[i] = a.Embedding
	}
	opt := rewardOptions(o.Config, 0)
	if err := canReward(list, opt, o.Config); err != nil {
		return nil, err
	}
	scores, err := audit.Reward(list.Attempts, embeddings, list.Anchors, opt)
	if err != nil {
		return nil, plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("%s", o.Source)
	}
	r.Attempts, r.Tasks = scores.Attempts, scores.Tasks
	for _, w := range r.Warnings {
		o.Terminal.Warn("%s", w)
	}
	return r, nil
}

// rewardOptions are [reward]'s settings for embeddings of a size; 0: the size that most of them have.
func rewardOptions(cfg *config.Config, dim int) srpo.RewardOptions {
	o := srpo.DefaultRewardOptions()
	c := cfg.Reward
	o.Kind, o.References, o.Cluster.Kind, o.Alpha = srpo.RewardKind(c.Kind), srpo.ReferenceKind(c.References), srpo.ClusterKind(c.Cluster), c.Alpha
	o.Dim = dim
	return o
}

// canReward refuses what has nothing to measure against.
func canReward(list *attempts.List, opt srpo.RewardOptions, cfg *config.Config) error {
	if opt.Kind == srpo.Anchored && len(list.Anchors) == 0 {
		return plugins.Errorf(plugins.Invalid, "the reward %q measures against \"nothing happened\", and the list has no anchors", opt.Kind).
			WithPlace("%s", cfg.Origin("reward.kind")).WithHint(`give videos, whose first frames are held still for it, or {"anchors": {"TASK": [...]}, "attempts": [...]}, or use --reward zscore`)
	}
	if opt.References == srpo.ReferencesDemos {
		for _, a := range list.Attempts {
			if a.Demo {
				return nil
			}
		}
		return plugins.Errorf(plugins.Invalid, "references are %q and no attempt is a demonstration", opt.References).WithPlace("%s", cfg.Origin("reward.references")).
			WithHint(`mark the attempts that are: "demo": true; or use --references batch`)
	}
	return nil
}

// Table writes one line a task and one line an attempt.
func (r *RewardResult) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "task\tattempts\tsuccesses\tfailures\tunlabelled\tdropped\tcentres\tmean distance")
	for _, x := range r.Tasks {
		centres := strconv.Itoa(x.Centres)
		if x.Centres > 1 {
			centres += " of " + joinInts(x.Sizes)
		}
		distance := "-"
		if x.Centres > 0 && x.Failures+x.Unlabelled > x.Dropped {
			distance = fmt.Sprintf("%.4g", x.MeanDistance)
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n", x.Name, x.Attempts, x.Successes, x.Failures, x.Unlabelled, x.Dropped, centres, distance)
	}
	if err := t.Flush(); err != nil {
		return plugins.Errorf(plugins.Exhausted, "%w", err)
	}
	for _, x := range r.Tasks {
		for _, n := range x.Notes {
			fmt.Fprintf(w, "%s: %s\n", x.Name, n)
		}
	}
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "id\ttask\tlabel\treward\tdistance\tcentre\t")
	for _, a := range r.Attempts {
		label := "unlabelled"
		if a.Success != nil {
			label = map[bool]string{true: "success", false: "failure"}[*a.Success]
		}
		reward, distance, centre := fmt.Sprintf("%.3f", a.Reward), "-", "-"
		if a.Dropped {
			reward = "dropped"
		}
		if a.Distance != nil {
			distance, centre = fmt.Sprintf("%.4g", *a.Distance), strconv.Itoa(*a.Centre)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", a.ID, a.Task, label, reward, distance, centre, a.Reason)
	}
	if err := t.Flush(); err != nil {
		return plugins.Errorf(plugins.Exhausted, "%w", err)
	}
	return nil
}

func joinInts(list []int) string {
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, ", ")
}
