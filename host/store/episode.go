package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/srpo-dev/srpo/host/media"
	"github.com/srpo-dev/srpo/plugins"
)

// Episode describes a saved episode, in the JSON file next to its GIF.
type Episode struct {
	// ID is "<iteration>/<task>/<group>/<episode>".
	ID          string `json:"id"`
	Iteration   int    `json:"iteration"`
	Task        string `json:"task"`
	Instruction string `json:"instruction,omitempty"`
	Group       int    `json:"group"`
	Index       int    `json:"index"`
	StartState  int    `json:"start_state"`
	Seed        uint64 `json:"seed,string"`
	Success     bool   `json:"success"`
	// Reward is the reward from which Advantage was computed. Distance is the distance of the embedding to the nearest
	// centre of successes; nil: there was no centre.
	Reward    float64  `json:"reward"`
	Advantage float64  `json:"advantage"`
	Distance  *float64 `json:"distance,omitempty"`
	// Steps counts env steps. A frame was recorded every RecordEvery steps.
	Steps       int `json:"steps"`
	RecordEvery int `json:"record_every,omitempty"`
	// Evaluation is set if the episode belongs to an evaluation and not to training.
	Evaluation bool `json:"evaluation,omitempty"`
	// Video is the GIF's file name; SaveEpisode sets it.
	Video string `json:"video"`
}

// SaveEpisode writes frames, uint8 [T, H, W, 3] with T >= 1, as a GIF of at most 60 frames and at most 160 pixels per
// side, and meta as JSON next to it. It returns the GIF's path. The error is Corrupt for frames of another shape.
func (r *Run) SaveEpisode(meta Episode, frames plugins.Tensor) (string, error) {
	var b bytes.Buffer
	if err := media.EncodeGIF(&b, frames, media.GIF{}); err != nil {
		return "", plugins.AsError(err).WithPlace("episode %s", meta.ID)
	}
	name := FileName(meta.ID)
	meta.Video = name + ".gif"
	if !finite(meta.Reward) || !finite(meta.Advantage) {
		return "", plugins.Errorf(plugins.Internal, "reward %v or advantage %v is not finite",
			meta.Reward, meta.Advantage).WithPlace("episode %s", meta.ID)
	}
	if meta.Distance != nil && !finite(*meta.Distance) {
		meta.Distance = nil
	}
	text, err := json.MarshalIndent(meta, "", "  ")
	if err != nil {
		return "", plugins.AsError(err)
	}
	path := filepath.Join(r.dir, episodesDir, meta.Video)
	if err := r.disk.replace(path, b.Bytes()); err != nil {
		return "", err
	}
	return path, r.disk.replace(filepath.Join(r.dir, episodesDir, name+".json"), append(text, '\n'))
}

// FileName returns a file name for an episode's id. Names are readable, sort by iteration, and differ for different
// ids.
func FileName(id string) string {
	sum := sha256.Sum256([]byte(id))
	head, rest, ok := strings.Cut(id, "/")
	n := 0
	if _, err := fmt.Sscanf(head, "%d", &n); ok && err == nil && n >= 0 && fmt.Sprint(n) == head {
		head = fmt.Sprintf("%06d", n)
		id = head + "/" + rest
	}
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-':
			return r
		}
		return '-'
	}, id)
	if len(clean) > 100 {
		clean = clean[:60] + "-" + clean[len(clean)-39:] // the end contains group and episode
	}
	return fmt.Sprintf("%s-%x", strings.Trim(clean, "-"), sum[:4])
}
