package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/srpo-dev/srpo/plugins"
)

// Phases are the phases of an iteration, the keys of [Metrics.SecondsByPhase].
var Phases = []string{"rollout", "encode", "reward", "update", "commit"}

// Metrics are the numbers of one iteration, a line of metrics.jsonl. A number that is NaN or infinite is written as
// null and read as NaN.
type Metrics struct {
	Iteration int
	// EnvSteps counts the env steps since the run started, and Episodes the episodes of this iteration. Both include
	// replaced groups.
	EnvSteps int64
	Episodes int
	// SuccessRate and RewardMean are means over this iteration's episodes, including replaced groups.
	SuccessRate, RewardMean                      float64
	GroupsKept, GroupsDropped, EmbeddingsDropped int
	// Clusters is the number of centres of successes, over all tasks.
	Clusters int
	// KL, ClipFraction and GradNorm are the statistics of the update that the policy reported.
	KL, ClipFraction, GradNorm float64
	// Seconds is the iteration's wall-clock time. Phases overlap (clips are encoded during the rollout), so their sum
	// may differ from it.
	Seconds        float64
	SecondsByPhase map[string]float64
	// Extra are further numbers, each under its own name in the same JSON object.
	Extra map[string]float64
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// appendNumber appends the JSON form of v to b.
func appendNumber(b []byte, v float64) []byte {
	if !finite(v) {
		return append(b, "null"...)
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64)
}

// appendKey appends a comma, except after an opening brace, and the JSON form of name with a colon to b.
func appendKey(b []byte, name string) []byte {
	if !bytes.HasSuffix(b, []byte("{")) {
		b = append(b, ',')
	}
	key, _ := json.Marshal(name) // a string can always be encoded
	return append(append(b, key...), ':')
}

// metricsField pairs a name of the JSON object with a pointer to the field of Metrics.
type metricsField struct {
	name  string
	value any
}

// fields returns the fields in the order in which they are written.
func (m *Metrics) fields() []metricsField {
	return []metricsField{
		{"iteration", &m.Iteration},
		{"env_steps", &m.EnvSteps},
		{"episodes", &m.Episodes},
		{"success_rate", &m.SuccessRate},
		{"reward_mean", &m.RewardMean},
		{"groups_kept", &m.GroupsKept},
		{"groups_dropped", &m.GroupsDropped},
		{"embeddings_dropped", &m.EmbeddingsDropped},
		{"clusters", &m.Clusters},
		{"kl", &m.KL},
		{"clip_fraction", &m.ClipFraction},
		{"grad_norm", &m.GradNorm},
		{"seconds", &m.Seconds},
		{"seconds_by_phase", &m.SecondsByPhase},
	}
}

// MarshalJSON returns one object with the fields in a fixed order, followed by the extra numbers, sorted by name.
func (m Metrics) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	names := map[string]bool{}
	for _, f := range m.fields() {
		names[f.name] = true
		b = appendKey(b, f.name)
		switch v := f.value.(type) {
		case *int:
			b = strconv.AppendInt(b, int64(*v), 10)
		case *int64:
			b = strconv.AppendInt(b, *v, 10)
		case *float64:
			b = appendNumber(b, *v)
		case *map[string]float64:
			b = append(b, '{')
			for _, phase := range phaseNames(*v) {
				b = appendNumber(appendKey(b, phase), (*v)[phase])
			}
			b = append(b, '}')
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Extra)) {
		if names[name] {
			return nil, plugins.Errorf(plugins.Internal, "the name %q of an extra number is already in use", name)
		}
		b = appendNumber(appendKey(b, name), m.Extra[name])
	}
	return append(b, '}'), nil
}

// phaseNames returns the keys of m: first those of Phases in their order, then the others, sorted.
func phaseNames(m map[string]float64) []string {
	var names []string
	for _, p := range Phases {
		if _, ok := m[p]; ok {
			names = append(names, p)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(m)) {
		if !slices.Contains(Phases, p) {
			names = append(names, p)
		}
	}
	return names
}

// UnmarshalJSON reads a line. A missing number is NaN and a missing count is 0. Unknown fields that are not numbers
// are ignored.
func (m *Metrics) UnmarshalJSON(data []byte) error {
	raw := map[string]json.RawMessage{}
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	*m = Metrics{}
	for _, f := range m.fields() {
		text, ok := raw[f.name]
		delete(raw, f.name)
		if number, isNumber := f.value.(*float64); isNumber {
			*number = math.NaN()
		}
		if !ok || string(text) == "null" {
			continue
		}
		var err error
		if phases, isPhases := f.value.(*map[string]float64); isPhases {
			*phases, err = decodePhases(text)
		} else {
			err = json.Unmarshal(text, f.value)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	for name, text := range raw {
		v := math.NaN()
		if string(text) != "null" && json.Unmarshal(text, &v) != nil {
			continue
		}
		if m.Extra == nil {
			m.Extra = map[string]float64{}
		}
		m.Extra[name] = v
	}
	return nil
}

// decodePhases reads an object of numbers. null is NaN.
func decodePhases(text []byte) (map[string]float64, error) {
	numbers := map[string]*float64{}
	if err := json.Unmarshal(text, &numbers); err != nil {
		return nil, err
	}
	phases := map[string]float64{}
	for name, v := range numbers {
		phases[name] = math.NaN()
		if v != nil {
			phases[name] = *v
		}
	}
	return phases, nil
}
