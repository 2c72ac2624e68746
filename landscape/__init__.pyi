"""The public names, each with the module that defines it."""

from landscape import (
    figures as figures,
    inputs as inputs,
    records as records,
    store as store,
)
from landscape._version import __version__ as __version__
from landscape.curvature.operand import SymmetricOperator as SymmetricOperator
from landscape.curvature.operators import (
    EmpiricalFisherOperator as EmpiricalFisherOperator,
    GGNOperator as GGNOperator,
    HessianOperator as HessianOperator,
    ScaledOperator as ScaledOperator,
)
from landscape.curvature.precision import (
    PrecisionError as PrecisionError,
    precision_error as precision_error,
)
from landscape.curvature.samples import sample_curvature as sample_curvature, sample_rises as sample_rises
from landscape.figures import plot as plot
from landscape.objective.lazy_inputs import LazyInputs as LazyInputs
from landscape.objective.objective import Objective as Objective, with_normalized_logits as with_normalized_logits
from landscape.objective.sharding import (
    RankLostError as RankLostError,
    RanksDisagreeError as RanksDisagreeError,
    sharded as sharded,
)
from landscape.objective.views import View as View
from landscape.probe import Probe as Probe
from landscape.records import (
    Alignment as Alignment,
    Connection as Connection,
    Course as Course,
    CurvatureSplit as CurvatureSplit,
    Curve as Curve,
    DensityResult as DensityResult,
    DiagonalResult as DiagonalResult,
    EigenResult as EigenResult,
    KeskarSharpness as KeskarSharpness,
    LayerSpectra as LayerSpectra,
    Line as Line,
    LineDraws as LineDraws,
    MomentsResult as MomentsResult,
    NegativeMass as NegativeMass,
    Persistence as Persistence,
    PersistenceDraws as PersistenceDraws,
    Plane as Plane,
    PlaneDraws as PlaneDraws,
    SampleCurvature as SampleCurvature,
    SampleRises as SampleRises,
    Sharpness as Sharpness,
    Status as Status,
    SubspaceOverlap as SubspaceOverlap,
    TraceResult as TraceResult,
    Trajectory as Trajectory,
)
from landscape.sharpness import (
    adaptive_sharpness as adaptive_sharpness,
    average_sharpness as average_sharpness,
    keskar_sharpness as keskar_sharpness,
    m_sharpness as m_sharpness,
    sam_sharpness as sam_sharpness,
    sharpness_at_rise as sharpness_at_rise,
)
from landscape.spectrum.adaptive import adaptive_top as adaptive_top, adaptive_trace as adaptive_trace
from landscape.spectrum.decomposition import (
    alignment as alignment,
    split_curvature as split_curvature,
    subspace_overlap as subspace_overlap,
)
from landscape.spectrum.density import (
    negative_mass as negative_mass,
    spectral_density as spectral_density,
)
from landscape.spectrum.eigenpairs import top_eigenpairs as top_eigenpairs
from landscape.spectrum.estimators import (
    diagonal as diagonal,
    spectral_moments as spectral_moments,
    trace as trace,
)
from landscape.spectrum.layers import layer_spectra as layer_spectra
from landscape.store import (
    load as load,
    save as save,
)
from landscape.surfaces.batch_size import choose_batch_size as choose_batch_size
from landscape.surfaces.connectivity import connect as connect
from landscape.surfaces.curve import curve as curve
from landscape.surfaces.directions import (
    eigen_direction as eigen_direction,
    filter_normalized_direction as filter_normalized_direction,
    gradient_direction as gradient_direction,
)
from landscape.surfaces.draws import (
    line_draws as line_draws,
    plane_draws as plane_draws,
)
from landscape.surfaces.line_and_plane import (
    line as line,
    plane as plane,
)
from landscape.surfaces.matching import Matched as Matched, align as align
from landscape.surfaces.topology.persistence import (
    persistence as persistence,
    persistence_draws as persistence_draws,
)
from landscape.surfaces.trajectory import (
    common_plane as common_plane,
    principal_directions as principal_directions,
    project_path as project_path,
)
