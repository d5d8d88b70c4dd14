package host

import (
	"encoding/json"

	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// stateFile is the host's own part of a checkpoint.
const (
	stateFile  = "host.json"
	memoryFile = "memory.bin"
)

// memoryPerTask bounds the successes that references = "memory" remembers for each task.
const memoryPerTask = 64

// state is what the host must remember from one iteration to the next, besides the policy's own state.
type state struct {
	EnvSteps int64  `json:"env_steps"`
	UpdateID uint64 `json:"update_id"`
	// Solved counts the last iterations in a row that left nothing to learn.
	Solved int `json:"solved,omitempty"`
	// Yardsticks fixes what anchored rewards are measured against, from the first iteration on.
	Yardsticks map[string]float64 `json:"yardsticks,omitempty"`
	// Anchors are the embeddings of "nothing happened", Demos those of demonstrations, by task.
	Anchors map[string][]float64   `json:"anchors,omitempty"`
	Demos   map[string][][]float64 `json:"demos,omitempty"`

	memory *srpo.Memory
}

func newState() (*state, error) {
	m, err := srpo.NewMemory(memoryPerTask)
	return &state{memory: m, Yardsticks: map[string]float64{}}, err
}

// write adds the state to a checkpoint.
func (s *state) write(p *store.Pending) error {
	data, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	if err := p.WriteFile(stateFile, append(data, '\n')); err != nil {
		return err
	}
	if data, err = s.memory.MarshalBinary(); err != nil {
		return err
	}
	return p.WriteFile(memoryFile, data)
}

// readState reads what write wrote.
func readState(c *store.Checkpoint) (*state, error) {
	s, err := newState()
	if err != nil {
		return nil, err
	}
	data, err := c.ReadFile(stateFile)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, plugins.Errorf(plugins.Corrupt, "%s: %w", stateFile, err).WithPlace("%s", c.Dir)
	}
	if data, err = c.ReadFile(memoryFile); err != nil {
		return nil, err
	}
	if err := s.memory.UnmarshalBinary(data); err != nil {
		return nil, plugins.Errorf(plugins.Corrupt, "%s: %w", memoryFile, err).WithPlace("%s", c.Dir)
	}
	return s, nil
}
