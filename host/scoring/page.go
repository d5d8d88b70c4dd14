package scoring

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/srpo-dev/srpo/host/audit"
	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/plugins"
)

// write makes the folder: results.json, index.html, for each encoder its curves as SVG and the failures that fool it as a GIF, and a GIF of frames with curves.
func (s *scoring) write(ctx context.Context) error {
	if err := os.MkdirAll(s.Out, 0o755); err != nil {
		return plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("--out %s", s.Out).WithHint("give another folder")
	}
	put := func(name string, data []byte) error {
		path := filepath.Join(s.Out, name)
		tmp := filepath.Join(s.Out, ".tmp-"+name)
		err := os.WriteFile(tmp, data, 0o644)
		if err == nil {
			err = os.Rename(tmp, path)
		}
		if err != nil {
			_ = os.Remove(tmp)
			return plugins.Errorf(plugins.Exhausted, "cannot be written: %w", err).WithPlace("%s", path).WithHint("make room there, or give another --out")
		}
		return nil
	}
	var fooled []report.FalseSuccesses
	if s.clips.Kept != nil { // there are videos
		var err error
		if fooled, err = s.fooled(ctx, put); err != nil {
			return err
		}
	}
	s.result.Fooled = fooled
	data, err := json.MarshalIndent(s.result, "", "  ")
	if err != nil {
		return plugins.AsError(err)
	}
	if err := put("results.json", append(data, '\n')); err != nil {
		return err
	}
	page := report.RewardPage{Title: filepath.Base(filepath.Clean(s.Source)), Reward: s.result.Reward, Cluster: s.result.Cluster, References: s.result.References, Encoders: s.scored,
		FalseSuccesses: fooled, Warnings: s.result.Warnings, Command: strings.Join(s.Command, " "), Version: s.Version, Now: time.Now()}
	chosen := report.ChooseCurves(s.scored[0])
	if len(chosen) > 0 {
		for _, x := range s.scored {
			if err := put("curves-"+plainFile(x.Encoder)+".svg", []byte(report.CurvesSVG(x, chosen))); err != nil {
				return err
			}
		}
		films, err := s.films(ctx, chosen)
		if err != nil {
			return err
		}
		var all []report.Film
		for i, f := range films {
			s.Terminal.Update(report.Status{Phase: "draw", Done: i, Total: len(films)})
			if f.Frames.IsZero() {
				continue
			}
			all = append(all, f)
			gif, err := report.FilmGIF([]report.Film{f}, 1)
			if err != nil {
				return err
			}
			page.Clips = append(page.Clips, report.RewardClip{Mark: chosen[i].Mark, ID: s.list.Attempts[chosen[i].Index].ID, GIF: gif})
		}
		if len(all) > 0 {
			gif, err := report.FilmGIF(all, 4)
			if err != nil {
				return err
			}
			if err := put("curves.gif", gif); err != nil {
				return err
			}
		}
	}
	var b bytes.Buffer
	if err := report.RewardHTML(&b, page); err != nil {
		return err
	}
	return put("index.html", b.Bytes())
}

// films are the chosen attempts' frames with the curves of all encoders; one whose frames are gone has none.
func (s *scoring) films(ctx context.Context, chosen []report.Chosen) ([]report.Film, error) {
	out := make([]report.Film, len(chosen))
	for i, c := range chosen {
		if !s.clips.Usable(c.Index) {
			continue
		}
		frames, err := s.clips.Frames(ctx, c.Index)
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			s.warn(s.list.Attempts[c.Index].ID + ": " + plugins.AsError(err).Message)
			continue
		}
		out[i] = report.Film{Frames: frames, Success: c.Success}
		for _, x := range s.scored {
			for _, curve := range x.Curves {
				if curve.ID == s.list.Attempts[c.Index].ID {
					out[i].Lines = append(out[i].Lines, lineOf(curve))
				}
			}
		}
	}
	return out, nil
}

// maxFalseSuccesses limits the failures shown per encoder that it scores like successes.
const maxFalseSuccesses = 4

// fooled finds, for each encoder, the failures that it takes for successes, and films the first of them: each by itself for the page, and all side by side in a
// file of their own.
func (s *scoring) fooled(ctx context.Context, put func(name string, data []byte) error) ([]report.FalseSuccesses, error) {
	var out []report.FalseSuccesses
	for _, x := range s.scored {
		f := report.FindFalseSuccesses(x)
		var chosen []report.Chosen
		for _, i := range f.Indices[:min(maxFalseSuccesses, len(f.Indices))] {
			chosen = append(chosen, report.Chosen{Index: i})
		}
		films, err := s.films(ctx, chosen)
		if err != nil {
			return nil, err
		}
		var there []report.Film
		for k, film := range films {
			if film.Frames.IsZero() {
				continue
			}
			there = append(there, film)
			gif, err := report.FilmGIF([]report.Film{film}, 1)
			if err != nil {
				return nil, err
			}
			f.Clips = append(f.Clips, report.RewardClip{ID: s.list.Attempts[chosen[k].Index].ID, GIF: gif})
		}
		if len(there) > 0 {
			gif, err := report.FilmGIF(there, maxFalseSuccesses)
			if err != nil {
				return nil, err
			}
			if err := put("fooled-"+plainFile(x.Encoder)+".gif", gif); err != nil {
				return nil, err
			}
		}
		out = append(out, f)
	}
	return out, nil
}

func lineOf(c audit.Curve) report.Line { return report.Line{Ends: c.Ends, Values: c.Progress} }

var notPlain = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// plainFile is a name that can be a file's.
func plainFile(name string) string {
	if name = notPlain.ReplaceAllString(name, "-"); name == "" {
		return "given"
	}
	return name
}
