package evaluate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/srpo-dev/srpo/host/session"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// The identity of an evaluation is a map of everything that an outcome depends on. Resuming, merging and comparing
// evaluations compare identities.

// identify computes the part of the identity that is known before the plugins are started. It hashes the
// policy's folder.
func (e *evaluation) identify() (err error) {
	weights := "none: the policy holds its own weights"
	if e.cfg.Run.Checkpoint != "" {
		if e.weights, weights, err = session.FindPolicyAndHash(e.cfg, e.cfg.Run.Checkpoint, e.Terminal); err != nil {
			return err
		}
	}
	number := func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
	actions := "greedy"
	if e.Sample {
		actions = "sampled at temperature " + number(e.cfg.Rollout.Temperature)
	}
	e.identity = map[string]string{"checkpoint": weights, "env": e.cfg.Run.Env, "policy": e.cfg.Run.Policy,
		"seed": strconv.FormatUint(e.cfg.Run.Seed, 10), "states": e.States, "actions": actions,
		"max_steps": strconv.Itoa(e.cfg.Rollout.MaxSteps), "episodes": strconv.Itoa(e.Episodes)}
	if e.Shards > 0 {
		e.identity["shard"] = fmt.Sprintf("%d/%d", e.Shard, e.Shards)
	}
	if e.States != "all" {
		e.identity["split"], e.identity["train_fraction"] = e.cfg.Rollout.Split, number(e.cfg.Rollout.TrainFraction)
	}
	return nil
}

// identifyPlugins adds to the identity what only the running plugins report.
func (e *evaluation) identifyPlugins() {
	for _, p := range e.session.Plugins {
		version := p.Version
		if p.Hash != "" {
			version += " " + p.Hash
		}
		e.identity[string(p.Kind)+" plugin"] = p.Name + " " + version
	}
	for _, v := range e.cfg.Values() {
		if strings.HasPrefix(v.Key, "env.") || strings.HasPrefix(v.Key, "policy.") {
			e.identity[v.Key] = fmt.Sprint(v.Value)
		}
	}
	tasks := sha256.New()
	for _, t := range e.session.Tasks {
		fmt.Fprintf(tasks, "%q %d %d\n", t.ID, t.StartStates, e.plan.MaxSteps)
	}
	e.identity["tasks"] = fmt.Sprintf("%d (%s)", len(e.session.Tasks), hex.EncodeToString(tasks.Sum(nil))[:12])
}

// checkSame compares the identity with that of the folder: what is known before the plugins are started or,
// with all, the whole of it.
func (e *evaluation) checkSame(folder map[string]string, all bool) error {
	var names []string
	for name, value := range e.identity {
		if old, ok := folder[name]; ok && old != value || !ok && all {
			names = append(names, name)
		}
	}
	if all {
		for name := range folder {
			if _, ok := e.identity[name]; !ok {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	sort.Strings(names)
	var detail []string
	for _, name := range names {
		detail = append(detail,
			fmt.Sprintf("%s: %s in the folder, %s now", name, orNothing(folder[name]), orNothing(e.identity[name])))
	}
	return plugins.Errorf(plugins.Mismatch, "the folder contains another evaluation: %s differs; nothing was changed",
		strings.Join(names, ", ")).WithPlace("--out %s", e.Dir).WithHint("%s", e.remedy(folder, names)).
		WithDetail(strings.Join(detail, "\n"))
}

// remedy returns what to do about a folder with another evaluation, whose identity differs in names.
func (e *evaluation) remedy(folder map[string]string, names []string) string {
	onlySettings := true
	for _, name := range names {
		switch _, known := folder[name]; {
		case strings.HasSuffix(name, " plugin"), !known && strings.Contains(name, "."):
			// Old and new episodes would come from different programs.
			return "a plugin has changed since: give another --out, or continue with the version of srpo that " +
				"began it, see " +
				filepath.Join(e.Dir, RecordFile)
		case !strings.Contains(name, ".") && name != "seed" && name != "max_steps":
			onlySettings = false
		}
	}
	if onlySettings { // the cause may also be a default that has changed, or another srpo.toml
		return fmt.Sprintf("give another --out, or continue with its original settings: --config %s",
			filepath.Join(e.Dir, "srpo.toml"))
	}
	return "give another --out"
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// firstDifference returns the first name, in alphabetical order, in which two identities differ; empty: they do
// not. Names for which skip returns true are not compared.
func firstDifference(a, b map[string]string, skip func(string) bool) string {
	var names []string
	for _, m := range []map[string]string{a, b} {
		for name := range m {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if !skip(name) && a[name] != b[name] {
			return name
		}
	}
	return ""
}

// trainedOn returns the side of this split that the checkpoint's run trained on. It is empty when the
// checkpoint belongs to no run, or to one with other tasks or another split.
func (e *evaluation) trainedOn() string {
	run, ok := session.RunOf(e.cfg.Run.Checkpoint)
	if !ok {
		return ""
	}
	rec, err := store.Read(run)
	if err != nil || rec.Manifest == nil || rec.Manifest.StartStates == nil {
		return ""
	}
	m, s := rec.Manifest, rec.Manifest.StartStates
	trained := map[string]bool{}
	for _, id := range m.Tasks {
		trained[id] = true
	}
	for _, t := range e.session.Tasks {
		if !trained[t.ID] {
			return ""
		}
	}
	sameSplit := m.Seed == e.cfg.Run.Seed && s.TrainFraction == e.cfg.Rollout.TrainFraction &&
		(s.By == "" || s.By == e.session.Split.By())
	if s.Used == "all" || sameSplit {
		return s.Used
	}
	return ""
}
