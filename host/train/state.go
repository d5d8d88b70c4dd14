package train

import (
	"encoding/json"
	"fmt"

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
	damaged := func(file string, err error) error {
		return plugins.Errorf(plugins.Corrupt, "%s: %w", file, err).WithPlace("%s", c.Dir).
			WithHint("this srpo cannot read what wrote it: use the srpo that made the run, or move this folder away to go on from the checkpoint before it")
	}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, damaged(stateFile, err)
	}
	if s.EnvSteps < 0 || s.Solved < 0 {
		return nil, damaged(stateFile, fmt.Errorf("env_steps is %d and solved %d", s.EnvSteps, s.Solved))
	}
	if s.Yardsticks == nil {
		s.Yardsticks = map[string]float64{}
	}
	if data, err = c.ReadFile(memoryFile); err != nil {
		return nil, err
	}
	if err := s.memory.UnmarshalBinary(data); err != nil {
		return nil, damaged(memoryFile, err)
	}
	return s, nil
}
