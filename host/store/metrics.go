package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"sort"
	"strconv"

	"github.com/srpo-dev/srpo/plugins"
)

// Phases of an iteration, the keys of [Metrics.SecondsByPhase].
var Phases = []string{"rollout", "encode", "reward", "update", "commit"}

// Metrics is one iteration, a line of metrics.jsonl. A number that is NaN or infinite is written as null and read as NaN.
type Metrics struct {
	Iteration int
	// EnvSteps counts the env's steps since the run began, those of replaced groups included; Episodes those rolled in this iteration.
	EnvSteps int64
	Episodes int
	// SuccessRate and RewardMean are means over this iteration's episodes, replaced groups included.
	SuccessRate, RewardMean                      float64
	GroupsKept, GroupsDropped, EmbeddingsDropped int
	// Clusters is the number of centres of successes, over all tasks.
	Clusters int
	// KL, ClipFraction and GradNorm are the policy's own statistics of the update.
	KL, ClipFraction, GradNorm float64
	// Seconds is the iteration's wall time; phases overlap (encoding runs during the rollout), so they need not add up to it.
	Seconds        float64
	SecondsByPhase map[string]float64
	// Extra holds more numbers, each under its own name in the same object.
	Extra map[string]float64
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func number(v float64) []byte {
	if !finite(v) {
		return []byte("null")
	}
	return strconv.AppendFloat(nil, v, 'g', -1, 64)
}

// slots pairs the names of a line with the struct's fields, in the order in which they are written.
func (m *Metrics) slots() []struct {
	name string
	at   any
} {
	return []struct {
		name string
		at   any
	}{
		{"iteration", &m.Iteration}, {"env_steps", &m.EnvSteps}, {"episodes", &m.Episodes}, {"success_rate", &m.SuccessRate}, {"reward_mean", &m.RewardMean},
		{"groups_kept", &m.GroupsKept}, {"groups_dropped", &m.GroupsDropped}, {"embeddings_dropped", &m.EmbeddingsDropped}, {"clusters", &m.Clusters},
		{"kl", &m.KL}, {"clip_fraction", &m.ClipFraction}, {"grad_norm", &m.GradNorm}, {"seconds", &m.Seconds}, {"seconds_by_phase", &m.SecondsByPhase},
	}
}

// MarshalJSON writes one object in a fixed order, extra numbers sorted by name at its end.
func (m Metrics) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	put := func(name string, v []byte) {
		if b.Len() == 0 {
			b.WriteByte('{')
		} else {
			b.WriteByte(',')
		}
		k, _ := json.Marshal(name)
		b.Write(k)
		b.WriteByte(':')
		b.Write(v)
	}
	taken := map[string]bool{}
	for _, s := range m.slots() {
		taken[s.name] = true
		switch at := s.at.(type) {
		case *int:
			put(s.name, strconv.AppendInt(nil, int64(*at), 10))
		case *int64:
			put(s.name, strconv.AppendInt(nil, *at, 10))
		case *float64:
			put(s.name, number(*at))
		case *map[string]float64:
			var p bytes.Buffer
			for i, phase := range phaseNames(*at) {
				if i > 0 {
					p.WriteByte(',')
				}
				k, _ := json.Marshal(phase)
				fmt.Fprintf(&p, "%s:%s", k, number((*at)[phase]))
			}
			put(s.name, []byte("{"+p.String()+"}"))
		}
	}
	names := make([]string, 0, len(m.Extra))
	for n := range m.Extra {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		if taken[n] {
			return nil, plugins.Errorf(plugins.Internal, "an extra number cannot be called %q", n)
		}
		put(n, number(m.Extra[n]))
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// phaseNames gives the known phases in their order and the others after them, sorted.
func phaseNames(m map[string]float64) []string {
	var names, others []string
	for _, p := range Phases {
		if _, ok := m[p]; ok {
			names = append(names, p)
		}
	}
	for p := range m {
		known := false
		for _, k := range Phases {
			known = known || k == p
		}
		if !known {
			others = append(others, p)
		}
	}
	sort.Strings(others)
	return append(names, others...)
}

// UnmarshalJSON reads a line. A number that is missing is NaN, a count that is missing 0; what is no number is left out.
func (m *Metrics) UnmarshalJSON(data []byte) error {
	raw := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	*m = Metrics{}
	for _, s := range m.slots() {
		v, ok := raw[s.name]
		delete(raw, s.name)
		null := !ok || string(v) == "null"
		switch at := s.at.(type) {
		case *float64:
			if *at = math.NaN(); null {
				continue
			}
		case *map[string]float64:
			if null {
				continue
			}
			phases := map[string]*float64{}
			if err := json.Unmarshal(v, &phases); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			*at = map[string]float64{}
			for k, p := range phases {
				if (*at)[k] = math.NaN(); p != nil {
					(*at)[k] = *p
				}
			}
			continue
		}
		if null {
			continue
		}
		if err := json.Unmarshal(v, s.at); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	for n, v := range raw {
		f := math.NaN()
		if string(v) != "null" && json.Unmarshal(v, &f) != nil {
			continue
		}
		if m.Extra == nil {
			m.Extra = map[string]float64{}
		}
		m.Extra[n] = f
	}
	return nil
}
