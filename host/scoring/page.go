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

	"github.com/srpo-dev/srpo/host/report"
	"github.com/srpo-dev/srpo/plugins"
)

// maxFalseSuccesses is how many failures that score like successes are shown.
const maxFalseSuccesses = 4

// write writes the folder of the result: results.json, index.html and, for each encoder, its curves as SVG and
// a GIF of the failures that score like successes. curves.gif shows frames with curves.
func (s *scoring) write(ctx context.Context) error {
	if err := os.MkdirAll(s.Out, 0o755); err != nil {
		return plugins.Errorf(plugins.Invalid, "%w", err).WithPlace("--out %s", s.Out).WithHint("give another folder")
	}
	if s.clips.Scanned() {
		if err := s.findFalseSuccesses(ctx); err != nil {
			return err
		}
	}
	data, err := json.MarshalIndent(s.result, "", "  ")
	if err != nil {
		return plugins.AsError(err)
	}
	if err := s.put("results.json", append(data, '\n')); err != nil {
		return err
	}
	r := s.result
	page := report.RewardPage{Title: filepath.Base(filepath.Clean(s.Source)), Reward: r.Reward, Cluster: r.Cluster,
		References: r.References, Encoders: s.scored, FalseSuccesses: r.FalseSuccesses, Warnings: r.Warnings,
		Command: strings.Join(s.Command, " "), Version: s.Version, Now: time.Now()}
	if page.Clips, err = s.writeCurves(ctx); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := report.RewardHTML(&b, page); err != nil {
		return err
	}
	return s.put("index.html", b.Bytes())
}

// put writes a file of the folder: all of it, or the earlier one stays.
func (s *scoring) put(name string, data []byte) error {
	path, tmp := filepath.Join(s.Out, name), filepath.Join(s.Out, ".tmp-"+name)
	err := os.WriteFile(tmp, data, 0o644)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return plugins.Errorf(plugins.Exhausted, "cannot be written: %w", err).WithPlace("%s", path).
			WithHint("free some space, or give another --out")
	}
	return nil
}

// writeCurves draws the progress curves of a few attempts, and returns their clips for the page.
func (s *scoring) writeCurves(ctx context.Context) ([]report.RewardClip, error) {
	chosen := report.ChooseCurves(s.scored[0])
	if len(chosen) == 0 {
		return nil, nil
	}
	for _, x := range s.scored {
		if err := s.put("curves-"+fileName(x.Encoder)+".svg", []byte(report.CurvesSVG(x, chosen))); err != nil {
			return nil, err
		}
	}
	return s.writeFilms(ctx, chosen, 4, "curves.gif")
}

// findFalseSuccesses finds, for each encoder, the failures that score like successes, and films the first of them.
func (s *scoring) findFalseSuccesses(ctx context.Context) error {
	for _, x := range s.scored {
		f := report.FindFalseSuccesses(x)
		var chosen []report.Chosen
		for _, i := range f.Indices[:min(maxFalseSuccesses, len(f.Indices))] {
			chosen = append(chosen, report.Chosen{Index: i})
		}
		clips, err := s.writeFilms(ctx, chosen, maxFalseSuccesses, "fooled-"+fileName(x.Encoder)+".gif")
		if err != nil {
			return err
		}
		f.Clips = clips
		s.result.FalseSuccesses = append(s.result.FalseSuccesses, f)
	}
	return nil
}

// writeFilms writes one GIF of all chosen attempts with their curves, columns of them side by side, and returns
// one GIF per attempt for the page. Attempts without frames are left out.
func (s *scoring) writeFilms(ctx context.Context, chosen []report.Chosen, columns int, name string) (
	clips []report.RewardClip, err error) {
	var films []report.Film
	for i, c := range chosen {
		s.Terminal.Update(report.Status{Phase: "draw", Done: i, Total: len(chosen)})
		film, ok, err := s.film(ctx, c)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		films = append(films, film)
		gif, err := report.FilmGIF([]report.Film{film}, 1)
		if err != nil {
			return nil, err
		}
		clips = append(clips, report.RewardClip{Mark: c.Mark, ID: s.list.Attempts[c.Index].ID, GIF: gif})
	}
	if len(films) == 0 {
		return nil, nil
	}
	gif, err := report.FilmGIF(films, columns)
	if err != nil {
		return nil, err
	}
	return clips, s.put(name, gif)
}

// film returns the frames of a chosen attempt with the curves of all encoders. ok is false when there are no frames.
func (s *scoring) film(ctx context.Context, c report.Chosen) (film report.Film, ok bool, err error) {
	if !s.clips.Usable(c.Index) {
		return film, false, nil
	}
	id := s.list.Attempts[c.Index].ID
	frames, err := s.clips.Frames(ctx, c.Index)
	if err != nil {
		if ctx.Err() != nil {
			return film, false, err
		}
		s.warn(id + ": " + plugins.AsError(err).Message)
		return film, false, nil
	}
	film = report.Film{Frames: frames, Success: c.Success}
	for _, x := range s.scored {
		for _, curve := range x.Curves {
			if curve.ID == id {
				film.Lines = append(film.Lines, report.Line{Ends: curve.Ends, Values: curve.Progress})
			}
		}
	}
	return film, true, nil
}

var unsafeInFileName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// fileName returns an encoder's name as a part of a file name.
func fileName(encoder string) string {
	if encoder = unsafeInFileName.ReplaceAllString(encoder, "-"); encoder == "" {
		return "given"
	}
	return encoder
}
