package train

import (
	"encoding/json"
	"fmt"

	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

// The files of the host's state in a checkpoint.
const (
	stateFile  = "host.json"
	memoryFile = "memory.bin"
)

// memoryPerTask bounds the successes per task that references = "memory" keeps.
const memoryPerTask = 64

// state is what the host carries from one iteration to the next. The policy keeps its own state.
type state struct {
	EnvSteps int64  `json:"env_steps"`
	UpdateID uint64 `json:"update_id"`
	// Solved counts the last iterations in a row that left nothing to learn.
	Solved int `json:"solved,omitempty"`
	// ReferenceDistances are, by task, the distances by which the reward "anchored" divides. The first iteration that
	// measures one fixes it.
	ReferenceDistances map[string]float64 `json:"yardsticks,omitempty"`
	// Anchors are the embeddings of "nothing happened" and Demos those of demonstrations, by task.
	Anchors map[string][]float64   `json:"anchors,omitempty"`
	Demos   map[string][][]float64 `json:"demos,omitempty"`

	memory *srpo.Memory
}

func newState() (*state, error) {
	m, err := srpo.NewMemory(memoryPerTask)
	return &state{memory: m, ReferenceDistances: map[string]float64{}}, err
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

// readState reads the state of a checkpoint. The error is Corrupt for a state that this version cannot read.
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
			WithHint("this version of srpo cannot read the file: use the version that made the run, or move this " +
				"folder away " +
				"to continue from the previous checkpoint")
	}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, damaged(stateFile, err)
	}
	if s.EnvSteps < 0 || s.Solved < 0 {
		return nil, damaged(stateFile, fmt.Errorf("env_steps is %d and solved %d", s.EnvSteps, s.Solved))
	}
	if s.ReferenceDistances == nil {
		s.ReferenceDistances = map[string]float64{}
	}
	if data, err = c.ReadFile(memoryFile); err != nil {
		return nil, err
	}
	if err := s.memory.UnmarshalBinary(data); err != nil {
		return nil, damaged(memoryFile, err)
	}
	return s, nil
}
