"""What `diversevis --help` and `diversevis COMMAND --help` print.

The texts are here and not in the commands' files, whose imports take seconds. Settings are read
from the comments in conf/, states from `diversevis.runs.states`.
"""

from __future__ import annotations

from diversevis.runs.states import DAMAGED, MEANINGS, UNFINISHED

COMMANDS = {  # name -> (arguments, what it does)
    "run": ("[key=value ...]", "make the images, measure them, write a run folder"),
    "layers": ("model=...", "list a network's layers: units, receptive field, stride"),
    "weights": ("model=...", "fetch and check a network's weights ahead of time"),
    "analyze": ("FOLDER...", "measure the invariances of finished runs"),
    "show": ("RUN", "what a run says: is a unit invariant? its rank in its layer"),
    "figure": ("RUN kind=...", "a figure of a run for a paper: PDF, SVG or PNG"),
    "compare": ("A B", "compare the invariances of two sets of analyzed runs"),
    "train-prior": ("data=FOLDER", "train a prior of natural images on photographs"),
    "align": ("RUN...", "families of units: one another's rotations, scalings, shifts"),
    "status": ("[ROOT]", "which runs are finished, running, failed, ..."),
    "retry": ("[ROOT]", "repeat what failed, never began or died"),
    "collect": ("ROOT", "every unit of every finished run as one table"),
    "atlas": ("ROOT", "pages to look at: layers, units, comparisons; no server needed"),
    "view": ("[ROOT]", "the same, opened in the browser"),
}
TRAINED = "patches", "mcgsm", "denoiser", "pixelcnn"
USAGES = {f"{name} {words}": does for name, (words, does) in COMMANDS.items()}
LIST = "\n".join(f"  diversevis {usage:25} {does}" for usage, does in USAGES.items())

HELP = f"""\
diversevis: to what is this unit invariant?

Finds a batch of images that all drive one hidden unit of a deep network while being as different
from one another as possible (Cadena et al. 2018).

{LIST}
  diversevis COMMAND --help            help on one command
  diversevis --version

Try:

  diversevis run                                       analytic network, nothing to download
  diversevis run model=vgg19 layer=conv2_1 unit=12 analysis=all
"""

TEXTS = {  # with a field in braces for every list that is made elsewhere
    "run": """\
diversevis run [-m] [key=value ...]

Makes n diverse images for every unit named and writes them, with measurements and pictures, to
root/model/layer/units/v001 (v002, ...). The last line printed is that folder. Finished work is
skipped, and a run that was killed continues from its last checkpoint. With -m, every combination of
the values with commas is computed, and units are divided into jobs that fill a device.

Examples:
  diversevis run model=vgg19 layer=conv2_2 unit=all       a layer, many units at a time
  diversevis run model=resnet50 layer=layer1.1 unit=0-15 objective.diversity=0.5 device=cuda
  diversevis run model=torchvision model.name=alexnet layer=features.3 unit=0
  diversevis run model=vgg19 layer=conv2_1 unit=12 analysis=all         with all measures
  diversevis run -m model=vgg19 layer=conv2_1,conv2_2 unit=all seed=0,1  a sweep, in jobs
  diversevis run -m model=vgg19 layer=conv3_1 unit=all hydra/launcher=slurm  on a cluster

Groups of settings, each in a file (their settings are written group.key=value):
{groups}

Settings with their defaults:
{run}
  hydra/launcher=basic          where a sweep's jobs run: slurm, local, joblib or ray
                                (docs/cluster.md)

Settings of objective=diverse:
{objective}

Settings of optimizer=sphere:
{optimizer}

Settings of prior=patches (prior=none has none):
{prior}

Settings of model=torchvision, vgg19 and resnet50:
{model}

  diversevis analyze --help       the measures and their settings
  diversevis run --cfg job        print every setting with its value, and run nothing
  diversevis run --hydra-help     Hydra's own flags (--config-dir, --multirun, ...)

Weights come from the folder in the variable DIVERSEVIS_WEIGHTS, if it holds <model>*.safetensors,
else from torchvision's cache, else from the internet.
""",
    "layers": """\
diversevis layers model=MODEL [model.key=value ...] [size=SIDE or '[ROWS,COLUMNS]']

Lists every layer: its name (for layer=...), number of units, receptive field and stride in pixels,
and what the response is. Units that see the whole image are shown images of its size=, by default
the size for which the weights were published. Modules that are no layers are named with the reason.
Needs no weights.

Examples:
  diversevis layers model=resnet50
  diversevis layers model=timm model.name=vit_tiny_patch16_224
  diversevis layers model=custom model.target=my.networks.build 'size=[36,64]'
""",
    "weights": """\
diversevis weights model=MODEL [layer=LAYER] [model.key=value ...]

Fetches a network's weights into torchvision's cache, or reads them from the folder in the variable
DIVERSEVIS_WEIGHTS, and checks them (up to the layer named), so that later runs need no internet.

Examples:
  diversevis weights model=vgg19
  diversevis weights model=resnet50 model.weights=path/to/file.safetensors
""",
    "analyze": """\
diversevis analyze FOLDER... [analysis=all] [natural=FOLDER] [measure....=...]
diversevis analyze model=MODEL layer=LAYER unit=UNITS ['analysis=[phase,natural]'] [key=value ...]

Measures the invariances of the units of finished runs and writes them into their folders
(metrics.json, analysis/). Measures taken earlier stay. Without a folder, it takes the measures that
need no images (phase, natural) of the units named, and makes a folder for them.

Examples:
  diversevis analyze outputs/vgg19/*/*/v001 'analysis=[phase,shift]' measure.shift.crops=32
  diversevis analyze model=vgg19 layer=conv2_2 unit=all analysis=phase

Measures:
  gain         against as many images, each made alone: distances, response
  phase        F1/F0 of the best grating, and of the grating most like the best image
  shift        a texture of which every crop drives the unit, under a fixed and a learned mask
  deformation  response under smooth deformations, and stability against noise as large
  diversity    mean distance, between that of a simple (0) and of a complex cell (1)
  dimension    participation ratio; responses between images along great circles
  bipartite    how much of the best image may show a shifting texture, and on which side
  natural      the crops of natural=FOLDER that drive the unit most
  selectivity  responses of all units of the run to the images of every unit
  align        which units are one another's rotations, scalings and shifts; their families
  varied       the most different crops of natural=FOLDER that the unit accepts, against its images
  metamers     for runs with objective=metamers: the same photographs matched by random weights

Settings with their defaults:
  analysis=all                  all measures, or some of them: 'analysis=[phase,shift]'
  natural=null                  folder of photographs (JPEG, PNG, ...; any size, nested)
  device, batch, images         as in `diversevis run`
  model.target=NAME             trust the code of a custom network that FOLDER names: needed if the
                                folder was copied, or another account made it
  measure=standard              or published: the texture test with the published optimizer
{measure}
""",
    "compare": """\
diversevis compare A B [out=FOLDER] [resamples=10000] [seed=0] [network=skip]

Compares the invariances of two sets of analyzed units, index by index, and prints a table per pair
of runs, then the folder of all tables and figures. A and B are run folders, or folders above
several runs: then the latest finished version of each model, layer and units is taken, and runs are
paired by receptive-field size. Where a side has one or two units, their percentiles among the units
of the other side are given. Runs of different contrast, n, diversity weight, distance or
fraction, or measured with different settings, are refused.

Examples:
  diversevis compare outputs/vgg19 outputs/resnet50
  diversevis compare outputs/vgg19/conv3_1/0-255/v001 outputs/resnet50/layer1.1/0-255/v001 out=claim

Settings:
  out          where the versions go (outputs/compare/<A>_vs_<B>)
  resamples    of the bootstrap (10000)
  seed         of the bootstrap (0)
  network      skip: do not check that the networks still give the responses that were recorded
""",
    "align": """\
diversevis align RUN... [out=FOLDER] [measure.align.KEY=...]

Finds for every two units A and B the affine map (shift, rotation, scale from 0.5 to 2, stretch,
reflection, and the sign of contrast) of A's images that drives B most, and sorts the units into
families of those that drive one another. Prints the families, then the folder with all numbers,
arrays and pictures. Units of several layers and networks make one matrix; every network sees the
others' images pixel for pixel, at its norm. Runs of the same units with other seeds make a matrix
for every seed, and the adjusted Rand index tells how stable the families are. `analysis=align`
does the same within a run.

Examples:
  diversevis align outputs/vgg19/conv2_1/0-127/v001 outputs/vgg19/conv2_2/0-127/v001
  diversevis align outputs/vgg19/conv2_1/0-127/v001 outputs/vgg19/conv2_1/0-127/v002 out=seeds

Settings:
  out              where the versions go (outputs/align/<RUN>_and_<N>_more)
  measure.sample   number of units of a run, drawn at random (null: all)
  measure.align    its settings, as in `diversevis analyze --help`: measure.align.steps=60
  device, batch    as in `diversevis run`
  model.target     trust the code of a custom network that RUN names: needed if the folder was
                   copied, or another account made it
""",
    "train-prior": """\
diversevis train-prior prior=KIND data=FOLDER [key=value ...]

Trains a prior of natural images on a folder of photographs: how likely an image is among them. A
fifth of the photographs is held back to judge it by; its bits per dimension are printed beside
those of a Gaussian of the same covariance, then its file. `diversevis run prior=KIND
prior.file=FILE ...` uses it (docs/priors.md). A training that was killed continues where it was.

Examples:
  diversevis train-prior prior=patches data=photos
  diversevis train-prior prior=pixelcnn data=photos prior.channels=48 device=cuda
  diversevis run model=vgg19 layer=conv3_1 unit=21 prior=patches prior.photographs=photos

Settings with their defaults:
{train}

Settings of the priors:
{training}
""",
    "show": """\
diversevis show RUN [unit=UNIT] [--json]

Prints what a run says about its units: a table of all units with their medians, or a unit in full:
its response, the distances of its images, every index that was measured with its meaning, the
paths of its pictures, and its rank among the other units of its layer ("lower than 91 % of 255
units"). These are the units of all finished runs beside RUN (root/model/layer/*/v*) that were made
and measured with the same settings. A unit in several runs counts once, with its newest run; the
unit itself is not counted. Words such as "complex-like" are the field's, and are given only where a
threshold is standard: F1/F0 (Skottun et al. 1991) and R (Petrini et al. 2021), both at 1.

Examples:
  diversevis show outputs/vgg19/conv3_1/0-255/v001
  diversevis show outputs/vgg19/conv3_1/0-255/v001 unit=21
  diversevis show outputs/vgg19/conv3_1/21/v001 --json

Settings:
  RUN          a run folder, as `diversevis run` and `diversevis analyze` print it
  unit         the number of a unit of the run
  --json       the same as a JSON object (docs/measures.md has its keys)
""",
    "figure": """\
diversevis figure RUN kind=KIND [unit=UNIT] [columns=1] [format=pdf] [out=FILE]

Writes a figure for a paper: 85 mm wide (1 column) or 180 mm (2 columns), as high as what it shows,
all text at 7 points or more, fonts embedded (in SVG, letters are outlines), every pixel of an image
a sharp square. It has no title: what belongs in its caption is printed. The last line printed is
the path of the file. Settings may also be written with dashes: --kind phase.

Examples:
  diversevis figure outputs/vgg19/conv3_1/21/v001 kind=sheet
  diversevis figure outputs/vgg19/conv3_1/0-255/v001 --unit 21 --kind phase --columns 2
  diversevis figure outputs/vgg19/conv3_1/0-255/v001 kind=deformation out=layer.svg

Settings:
  kind         sheet (the images, with the responses to them), trace, front, or a measure: gain,
               phase, shift, deformation, diversity, dimension, natural, bipartite, selectivity,
               align, varied, metamers; layer: all measures of all units. Without unit=, trace and
               measures show all units of the run
  unit         the number of a unit of the run
  columns      1 or 2
  format       pdf, svg or png (600 pixels per inch)
  out          a file that ends in .pdf, .svg or .png, or a folder that exists (.). A file that is
               not this very figure is never replaced
""",
    "status": """\
diversevis status [ROOT] [--failed]

Shows the state of all runs below ROOT (outputs), and of all work that sweeps have planned there, by
model and layer:

{states}

Units are counted as finished/all. Only the newest version of the same work counts; other settings
are other work. Below the table are the runs in progress, and what went wrong: the first 20 of each
state.

Examples:
  diversevis status outputs/vgg19 --failed

Settings:
  --failed     all that went wrong, with reasons, attempts and logs
""",
    "retry": """\
diversevis retry [ROOT] [hydra/launcher=...] [hydra.launcher.KEY=...] [model.target=NAME]

Repeats all work that `diversevis status` shows as {unfinished}
with the same config, from the last checkpoint if there is one, and with the same launcher.

Examples:
  diversevis retry outputs hydra/launcher=slurm hydra.launcher.mem_gb=64

Settings:
  ROOT                  where run folders are (outputs)
  hydra/launcher        another launcher: slurm, local, joblib, ray, or basic (here, job by job)
  hydra.launcher.KEY    its settings, such as partition, timeout_min, mem_gb
  model.target=NAME     trust the code of a custom network that copied or foreign records name
""",
    "collect": """\
diversevis collect ROOT [out=FOLDER]

Writes every unit of every finished run at or below ROOT into a table, table.parquet and table.csv:
a row per unit, with its settings, facts of its run and all numbers of metrics.json. Works while a
sweep runs: left_out.csv says which runs are not in the table, and why. Prints the path of
table.parquet. Needs pip install 'diversevis[collect]'. docs/run-folder.md explains the columns.

Examples:
  diversevis collect outputs
  diversevis collect outputs/vgg19 out=tables

Settings:
  out          where the three files go (ROOT)
""",
    "atlas": """\
diversevis atlas ROOT [out=FOLDER] [pictures=none]

Writes pages about all finished runs at or below ROOT: a front page with networks and layers, a
page for every layer with its units (to sort, filter and compare), a unit in full, and comparisons.
ROOT is a run folder, a sweep's, a comparison's, or a folder above these. The pages open from disk
in any browser, and from any web server: copy the folder. Only what is new or has changed is made
again. Works while a sweep runs: the front page lists the runs that are left out, and why. Prints
the path of the front page.

Examples:
  diversevis atlas outputs
  diversevis atlas outputs/vgg19/conv3_1/0-255/v001 out=pages

Settings:
  out          the folder of the pages (ROOT/atlas)
  pictures     none: draw no pictures of measures, which take longest and most room (all)
""",
    "view": """\
diversevis view [ROOT] [out=FOLDER] [pictures=none]

Does what `diversevis atlas` does, and opens the front page in the browser as soon as units can be
looked at; pictures of measures are drawn meanwhile.

Examples:
  diversevis view
  diversevis view outputs/compare/vgg19_vs_resnet50/v001

Settings:
  ROOT         where run folders are (outputs)
  out          the folder of the pages (ROOT/atlas)
  pictures     none: draw no pictures of measures, which take longest and most room (all)
""",
}


def help_text(command: str) -> str:
    """Return the help on a command."""
    from diversevis.config import conf_files  # reads files, which `diversevis --help` need not

    settings = conf_files.settings
    width = max(map(len, MEANINGS))
    return TEXTS[command].format(
        groups=conf_files.groups(),
        run=settings("run"),
        objective=settings("objective/diverse", "objective."),
        optimizer=settings("optimizer/sphere", "optimizer."),
        prior=settings("prior/patches", "prior."),
        model=settings("model/torchvision", "model."),
        measure=settings("measure/standard", "measure."),
        train=settings("train"),
        training="\n\n".join(
            f"  prior={kind}\n{settings(f'training/{kind}', 'prior.')}" for kind in TRAINED
        ),
        states="\n".join(f"  {name:{width}}  {meaning}" for name, meaning in MEANINGS.items()),
        unfinished=f"{', '.join(UNFINISHED)} or {DAMAGED},",
    )
