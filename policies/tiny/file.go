package tiny

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"syscall"

	"github.com/srpo-dev/srpo/plugins"
)

// A checkpoint is one file: 8 bytes of magic, the header's length as uint32, the header (JSON), the parts that the header lists as float32 one after
// another, and the SHA-256 of everything before it. All numbers are little-endian.
const (
	fileName  = "tiny.policy"
	fileMagic = "SRPOTNY1"
)

// header is the readable part of a checkpoint.
type header struct {
	Format  int       `json:"format"`
	Shape   shape     `json:"shape"`
	Weights []section `json:"weights"` // layout of the parameter vector
	// The env that the policy acts in.
	Proprio []string  `json:"proprio"`
	Actions []string  `json:"actions"`
	Low     []float32 `json:"low"`
	High    []float32 `json:"high"`

	Horizon   float64   `json:"horizon"`
	AdamSteps int       `json:"adam_steps"`
	Updates   []applied `json:"updates"`
	Imitated  []uint64  `json:"imitated"`
	// Parts lists the vectors that follow: weights, adam.m, adam.v, proprio.mean, proprio.scale, action.units (1 where older files have none) and, when there is one, reference.
	Parts []section `json:"parts"`
}

// Save writes tiny.policy into folder and fsyncs it: weights, optimiser, the starting policy, scales and applied ids. No generator's state is needed, see the
// package comment.
func (p *Policy) Save(_ context.Context, folder string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ready(); err != nil {
		return err
	}
	s := &p.state
	h := header{Format: 1, Shape: p.net.shape, Weights: p.net.names, Proprio: p.env.Proprio, Actions: p.env.Action.Names, Low: p.env.Action.Low,
		High: p.env.Action.High, Horizon: s.horizon, AdamSteps: s.adam.steps, Updates: s.updates, Imitated: s.imitated}
	var data bytes.Buffer
	for _, part := range s.parts() {
		if *part.data == nil {
			continue
		}
		h.Parts = append(h.Parts, section{part.name, []int{len(*part.data)}})
		data.Write(plugins.Floats(*part.data).Data)
	}
	head, err := json.Marshal(h)
	if err != nil {
		return plugins.Errorf(plugins.Internal, "the checkpoint's header: %w", err).WithPlace("policy tiny")
	}
	var out bytes.Buffer
	out.WriteString(fileMagic)
	out.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(head))))
	out.Write(head)
	out.Write(data.Bytes())
	sum := sha256.Sum256(out.Bytes())
	out.Write(sum[:])
	if err := write(folder, out.Bytes()); err != nil {
		return notSaved(folder, out.Len(), err)
	}
	return nil
}

// notSaved says why a checkpoint of so many bytes could not be written, and what to do.
func notSaved(folder string, size int, err error) error {
	fail := func(kind plugins.ErrorKind, hint string, args ...any) error {
		return plugins.Errorf(kind, "cannot save: %w", err).WithPlace("policy tiny").WithHint(hint, args...)
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		free := "unknown"
		if s := (syscall.Statfs_t{}); syscall.Statfs(folder, &s) == nil {
			free = fmt.Sprintf("%d kB", s.Bavail*uint64(s.Bsize)>>10)
		}
		return fail(plugins.Exhausted, "the disk or the quota is full: the checkpoint has %d kB, free are %s; make room there, or give another --out", size>>10, free)
	case errors.Is(err, syscall.EFBIG):
		return fail(plugins.Exhausted, "the file of %d kB is larger than the system's limit: raise `ulimit -f`", size>>10)
	case errors.Is(err, fs.ErrNotExist):
		return fail(plugins.NotFound, "somebody removed the folder")
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fail(plugins.Invalid, "the folder must be writable: change its permissions, or give another --out")
	}
	return fail(plugins.Internal, "see the system's log")
}

// write makes the file appear whole or not at all.
func write(folder string, data []byte) error {
	f, err := os.CreateTemp(folder, fileName+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(folder, fileName))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// part is a vector of the state, by the name that it has in a file.
type part struct {
	name string
	data *[]float32
}

func (s *state) parts() []part {
	return []part{{"weights", &s.weights}, {"adam.m", &s.adam.m}, {"adam.v", &s.adam.v}, {"proprio.mean", &s.mean}, {"proprio.scale", &s.scale}, {"action.units", &s.units}, {"reference", &s.reference}}
}

// Load restores what Save wrote, forgets recorded chunks and returns the last update id that the state contains (0: none). Errors: NotFound without a
// checkpoint in folder, Corrupt for a file that was cut short or changed, Mismatch for another network or env; then nothing has changed.
func (p *Policy) Load(_ context.Context, folder string) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.load(folder)
}

// BeginRun is Load for a new run: with new moments, and the loaded weights as the starting policy.
func (p *Policy) BeginRun(_ context.Context, folder string) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, err := p.load(folder)
	if err != nil {
		return 0, err
	}
	p.state.adam = newAdam(p.net.size)
	if p.state.reference != nil { // nil: nothing was learned yet, and the first Update takes the weights as they are then
		p.state.reference = append([]float32(nil), p.state.weights...)
	}
	return last, nil
}

func (p *Policy) load(folder string) (uint64, error) {
	if err := p.ready(); err != nil {
		return 0, err
	}
	path := filepath.Join(folder, fileName)
	fail := func(e *plugins.Error) (uint64, error) { return 0, e.WithPlace("policy tiny, %s", path) }
	data, err := os.ReadFile(path)
	if err != nil {
		kind := plugins.Internal
		if errors.Is(err, fs.ErrNotExist) {
			kind = plugins.NotFound
		}
		return fail(plugins.Errorf(kind, "cannot load: %w", err).WithHint("name a folder that this policy's Save filled"))
	}
	h, payload, problem := parse(data)
	if problem != nil {
		return fail(problem)
	}
	if problem := p.fits(h); problem != nil {
		return fail(problem)
	}
	s := state{units: ones(p.net.Actions), horizon: h.Horizon, updates: h.Updates, imitated: h.Imitated}
	s.adam.steps = h.AdamSteps
	sizes := map[string]int{"weights": p.net.size, "adam.m": p.net.size, "adam.v": p.net.size, "reference": p.net.size, "proprio.mean": p.net.Proprio, "proprio.scale": p.net.Proprio, "action.units": p.net.Actions}
	for _, sec := range h.Parts {
		n, known := sizes[sec.Name]
		if !known || len(sec.Shape) != 1 || sec.Shape[0] != n || 4*n > len(payload) {
			return fail(plugins.Errorf(plugins.Corrupt, "part %s has shape %v, want [%d], and %d bytes are left", sec.Name, sec.Shape, n, len(payload)).WithHint("use another checkpoint"))
		}
		for _, part := range s.parts() {
			if part.name == sec.Name {
				*part.data = plugins.Tensor{DType: plugins.Float32, Data: payload[:4*n]}.Float32s()
			}
		}
		payload = payload[4*n:]
	}
	if s.weights == nil || s.adam.m == nil || s.adam.v == nil || s.mean == nil || s.scale == nil || len(payload) != 0 {
		return fail(plugins.Errorf(plugins.Corrupt, "parts are missing or %d bytes too many", len(payload)).WithHint("use another checkpoint"))
	}
	for _, part := range s.parts() {
		if !finite(*part.data) {
			return fail(plugins.Errorf(plugins.Corrupt, "part %s has numbers that are not finite", part.name).WithHint("use an earlier checkpoint"))
		}
	}
	if math.IsNaN(s.horizon) || s.horizon <= 0 {
		return fail(plugins.Errorf(plugins.Corrupt, "the horizon is %v, not above 0", s.horizon).WithHint("use an earlier checkpoint"))
	}
	if s.adam.steps < 0 || slices.ContainsFunc(s.adam.v, func(v float32) bool { return v < 0 }) || slices.ContainsFunc(s.scale, func(v float32) bool { return v <= 0 }) {
		return fail(plugins.Errorf(plugins.Corrupt, "steps or squares of the optimiser are negative, or a scale of proprio is not above 0").WithHint("use an earlier checkpoint"))
	}
	if slices.ContainsFunc(s.units, func(v float32) bool { return !(v > 0 && v <= 1) }) {
		return fail(plugins.Errorf(plugins.Corrupt, "units of actions are %v, not above 0 and at most 1", s.units).WithHint("use an earlier checkpoint"))
	}
	p.state = s
	p.forgetAll()
	var last uint64
	for _, a := range s.updates {
		last = max(last, a.ID)
	}
	for _, id := range s.imitated { // ids of one sequence: the next one must be new to both
		last = max(last, id)
	}
	return last, nil
}

// parse checks the file's frame and returns its header and the bytes between header and checksum.
func parse(data []byte) (header, []byte, *plugins.Error) {
	var h header
	corrupt := func(format string, args ...any) (header, []byte, *plugins.Error) {
		return h, nil, plugins.Errorf(plugins.Corrupt, format, args...).WithHint("the file is damaged; use another checkpoint")
	}
	const frame = len(fileMagic) + 4
	if len(data) < frame+sha256.Size {
		return corrupt("%d bytes are no checkpoint: it was cut short", len(data))
	}
	if string(data[:len(fileMagic)]) != fileMagic {
		return corrupt("not a checkpoint of this policy, or of another version (it begins with %q)", data[:len(fileMagic)])
	}
	body, sum := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	whole := sha256.Sum256(body) == [sha256.Size]byte(sum)
	n := int(binary.LittleEndian.Uint32(data[len(fileMagic):]))
	if n > len(body)-frame {
		return corrupt("cut short within its header of %d bytes", n)
	}
	err := json.Unmarshal(body[frame:frame+n], &h)
	payload := body[frame+n:]
	if err == nil && !whole {
		want := 0
		for _, s := range h.Parts {
			want += 4 * max(plugins.Elements(s.Shape), 0)
		}
		if want > len(payload) {
			return corrupt("cut short: %d of %d bytes", len(data), frame+n+want+sha256.Size)
		}
	}
	if !whole {
		return corrupt("its SHA-256 does not match: at least one byte was changed")
	}
	if err != nil {
		return corrupt("header: %v", err)
	}
	if h.Format != 1 {
		return corrupt("format %d, this version reads format 1", h.Format)
	}
	return h, payload, nil
}

// fits says in which way a checkpoint belongs to another network or env.
func (p *Policy) fits(h header) *plugins.Error {
	if len(h.Actions) != p.env.Action.Dim() || len(h.Proprio) != len(p.env.Proprio) { // no setting makes it fit
		return plugins.Errorf(plugins.Mismatch, "the checkpoint was made for an env with %d action and %d proprio values, this one has %d and %d",
			len(h.Actions), len(h.Proprio), p.env.Action.Dim(), len(p.env.Proprio)).WithHint("use a checkpoint made for this env, or leave it out to imitate the env's expert first")
	}
	if !reflect.DeepEqual(h.Shape, p.net.shape) {
		return plugins.Errorf(plugins.Mismatch, "the checkpoint's network is %s, the configured one %s", describe(h.Shape), describe(p.net.shape)).
			WithHint("give policy.tiny the settings that the checkpoint was made with")
	}
	a := p.env.Action
	if !slices.Equal(h.Proprio, p.env.Proprio) {
		return plugins.Errorf(plugins.Mismatch, "the checkpoint's env has proprio %q, this one %q", h.Proprio, p.env.Proprio).WithHint("use a checkpoint made for this env")
	}
	if !slices.Equal(h.Actions, a.Names) || !slices.Equal(h.Low, a.Low) || !slices.Equal(h.High, a.High) {
		return plugins.Errorf(plugins.Mismatch, "the checkpoint's env takes actions %q in %v to %v, this one %q in %v to %v", h.Actions, h.Low, h.High, a.Names, a.Low, a.High).
			WithHint("use a checkpoint made for this env")
	}
	return nil
}

func describe(s shape) string {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Sprintf("%+v", s)
	}
	return string(b)
}
